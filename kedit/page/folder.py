"""The folder of a run or a sweep, as its page reads it: only files, and each of them once."""

import csv
import io
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from kedit.neurons import NeuronId, NeuronScores, NeuronSet, best_first, load_scores


class PageError(ValueError):
    """No page can be made of a folder; the message says why."""


class Folder:
    """What lies in a folder; a file that is not there is empty."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._read: dict[str, Any] = {}

    def json(self, name: str) -> dict[str, Any]:
        """Return what a file says: a mapping, or a list as its `rows`; a PageError says that it is damaged."""
        if name not in self._read:
            self._read[name] = self._mapping(name, json.loads)
        found: dict[str, Any] = self._read[name]
        return found

    def yaml(self, name: str) -> dict[str, Any]:
        """Return the same of a file of YAML; one that cannot be read is empty, as it decides nothing."""
        try:
            return self._mapping(name, yaml.safe_load)
        except (PageError, yaml.YAMLError):
            return {}

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Return what the lines of a file say, each a mapping."""
        try:
            return [dict(json.loads(line)) for line in self._text(name).split("\n") if line.strip()]
        except (ValueError, TypeError) as error:
            raise PageError(f"`{self.path / name}` is damaged: {error}") from error

    def table(self, name: str) -> list[dict[str, str]]:
        """Return the rows of a file of CSV by the names of the columns."""
        return [dict(row) for row in csv.DictReader(io.StringIO(self._text(name)))]

    @cached_property
    def scores(self) -> dict[str, NeuronScores]:
        """The scores of each stage; empty where none were left."""
        path = self.path / "scores.safetensors"
        try:
            return load_scores(path) if path.is_file() else {}
        except ValueError as error:
            raise PageError(f"`{path}` is damaged: {error}") from error

    @cached_property
    def neurons(self) -> list[NeuronId]:
        """The located neurons, the best of the last stage first; empty for a folder of several sets."""
        found = self.json("neurons.json").get("neurons")
        if not isinstance(found, list):
            return []
        return best_first(NeuronSet.load(self.path / "neurons.json"), self.scores)

    def place(self, stage: str, value: float) -> int:
        """Return the place of a score among all of a stage; 1 is the highest, equal ones share theirs."""
        return 1 + int((self.scores[stage].values > value).sum())

    @cached_property
    def figures(self) -> list[Path]:
        """The files of the figures, by name."""
        return sorted((self.path / "figures").glob("[!.]*.*"))

    def has(self, name: str) -> bool:
        """Return whether there is such a file."""
        return (self.path / name).is_file()

    def _mapping(self, name: str, read: Any) -> dict[str, Any]:
        if not (text := self._text(name)):
            return {}
        try:
            found = read(text)
        except ValueError as error:
            raise PageError(f"`{self.path / name}` is damaged: {error}") from error
        return dict(found) if isinstance(found, Mapping) else {"rows": found} if isinstance(found, list) else {}

    def _text(self, name: str) -> str:
        path = self.path / name
        try:
            return path.read_text(encoding="utf-8") if path.is_file() else ""
        except UnicodeDecodeError as error:
            raise PageError(f"`{path}` is damaged: {error}") from error
