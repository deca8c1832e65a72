"""What a comparison has found so far, kept in its run folder by what produced it.

A comparison that was interrupted, or that is asked for again in the same folder with another method or budget,
computes only what is not there yet.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedit import __version__
from kedit.neurons import NeuronScores, load_scores, save_scores
from kedit.runs import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shelf:
    """Files of a run folder that are named by a digest of what made them."""

    run: Run
    settings: Mapping[str, Any]
    """What decides everything on the shelf: model, data, inpainting, seed."""

    def about(self, **more: Any) -> "Shelf":
        """Return the same shelf for what `more` settings decide, too."""
        return Shelf(self.run, {**self.settings, **more})

    def made(self, kind: str, make: Callable[[], Any], **what: Any) -> Any:
        """Return plain data from the shelf, or make it and put it there; `what` else it depends on."""
        path = self._path(kind, what, "json")
        if path.is_file():
            logger.info("read `%s`: not computed again", path.relative_to(self.run.folder))
            return json.loads(path.read_text(encoding="utf-8"))
        value = make()
        self.run.save_json(str(path.relative_to(self.run.folder)), value)
        return value

    def scores(self, **what: Any) -> dict[str, NeuronScores] | None:
        """Return the scores on the shelf, or None."""
        path = self._path("scores", what, "safetensors")
        if not path.is_file():
            return None
        logger.info("read `%s`: not computed again", path.relative_to(self.run.folder))
        return load_scores(path)

    def keep_scores(self, scores: Mapping[str, NeuronScores], **what: Any) -> None:
        """Put scores on the shelf."""
        path = self._path("scores", what, "safetensors")
        self.run.save_file(str(path.relative_to(self.run.folder)), lambda draft: save_scores(scores, draft))

    def _path(self, kind: str, what: Mapping[str, Any], suffix: str) -> Path:
        made_by = {"kedit": __version__, **self.settings, **what}
        digest = hashlib.sha256(json.dumps(made_by, sort_keys=True, default=str).encode()).hexdigest()[:20]
        return self.run.folder / "shelf" / f"{kind}-{digest}.{suffix}"
