"""The cache of results, by everything that decides them: captions, scores, outputs, reports.

The key of an entry holds the model's identity, the digest of the code that makes it, the versions of the libraries
and the digests of the pictures. What could change a result changes the key, so that no entry is ever stale.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from kedit.edit.edit import Change, Edit, active
from kedit.evaluation.evaluation_set import EvaluationSet
from kedit.fingerprints import of_code, of_concept, of_files, of_libraries, of_pair, of_question, of_sample
from kedit.internals.hooks import foreign
from kedit.locate.strongest import keeping
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronScores, scores_from, scores_to
from kedit.samples import Pair
from kedit.settings import of_settings
from kedit.store import Store, digest, store_at

logger = logging.getLogger(__name__)

MODEL = (
    *("models", "internals"),
    *("neurons", "prompts", "words", "pixels"),
)
"""The parts of kedit that run a model."""
ROOMS = {
    "generations": (*MODEL, "samples", "edit", "pipelines"),
    "scores": (*MODEL, "samples", "locate", "pipelines"),
    "report": (*MODEL, "samples", "evaluation", "inspection", "pipelines"),
    "words": (*MODEL, "samples", "locate"),
    "gone": (*MODEL, "samples", "data", "edit", "evaluation", "inspection", "pipelines"),
}
"""The parts of kedit whose code makes an entry of a kind."""
LIBRARIES = {
    "generations": (),
    "scores": (),
    "report": ("numpy", "sacrebleu", "rouge-score", "evaluate"),
    "words": (),
    "gone": ("numpy",),
}
"""What an entry of a kind depends on besides the model's own libraries, which its identity has."""


@dataclass(frozen=True, eq=False)
class Cache:
    """Results of a model in a store; without a store, everything is made."""

    store: Store | None = None
    model: str = ""
    """The model's identity; see `kedit.models.identity`."""
    weights: str | None = None
    """The digest of its weights, where that is known already."""

    @classmethod
    def at(cls, folder: str | None, identity: str | None, weights: str | None = None) -> "Cache":
        """Return the results under `folder`, or of no store if there is no folder or nothing that tells the model.

        An empty text, such as that of an empty variable, is the usual folder.
        """
        if folder is None or identity is None or (store := store_at(folder)) is None:
            return cls(weights=weights)
        return cls(store, identity, weights)

    @classmethod
    def of_model(cls, folder: str | Path | None, model: MLLM) -> "Cache":
        """Return the results of `model` under `folder`; of no store if there is no folder or its weights are hidden."""
        from kedit.models.identity import UnhashableWeightsError, identity, weights_digest

        if acting := active(model):
            logger.warning(
                "the edit `%s` acts on the model: all is measured under it, and nothing is kept for other jobs",
                acting[0].name,
            )
            return cls()
        if folder is None:
            return cls()
        if parts := foreign(model.module):
            where = parts[0] or type(model.module).__name__
            logger.warning(
                "foreign code acts in `%s` (a hook, or its `forward`): nothing is kept for other jobs", where
            )
            return cls()
        try:
            weights = weights_digest(model.module)
            return cls.at(str(folder), identity(model, weights), weights)
        except UnhashableWeightsError as error:
            logger.warning("%s: nothing is kept for other jobs", error)
            return cls()

    def json(self, kind: str, what: str, about: Callable[[], Mapping[str, Any]], make: Callable[[], Any]) -> Any:
        """Return plain data, found or made.

        Args:
            kind: A key of `ROOMS`.
            what: What it is, for people.
            about: Returns what else decides it.
            make: Makes it.
        """
        if self.store is None:
            return make()
        found = self.store.cached(
            self._key(kind, what, about()), lambda: json.dumps(make()).encode(), {"kind": kind, "what": what}
        )
        return json.loads(found)

    def scores(
        self, locator: Any, about: Callable[[], Mapping[str, Any]], make: Callable[[], Mapping[str, NeuronScores]]
    ) -> dict[str, NeuronScores]:
        """Return the scores of each stage, found or made.

        Args:
            locator: Whose scores; what it selects does not matter.
            about: Returns what else decides them: the pairs and their captions.
            make: Makes them.
        """
        if self.store is None:
            return dict(make())
        key, stages = self._scores_key(locator, about())
        content = self.store.cached(key, lambda: scores_to(make()), {"kind": "scores", "what": stages})
        return scores_from(content)

    def known_scores(self, locator: Any, about: Callable[[], Mapping[str, Any]]) -> dict[str, NeuronScores] | None:
        """Return the scores that `scores` would find, or None."""
        content = None if self.store is None else self.store.get(self._scores_key(locator, about())[0])
        return None if content is None else scores_from(content)

    def keep_scores(
        self, locator: Any, about: Callable[[], Mapping[str, Any]], scores: Mapping[str, NeuronScores]
    ) -> None:
        """Keep scores that were made together with those of other locators, where `scores` finds them."""
        if self.store is not None:
            key, stages = self._scores_key(locator, about())
            self.store.keep(key, scores_to(scores), {"kind": "scores", "what": stages})

    def keeping_words(self) -> AbstractContextManager[None]:
        """Return what lets scorers find the strongest words of the model's neurons here while it lasts."""
        if (store := self.store) is None:
            return nullcontext()

        def keep(about: Mapping[str, Any], make: Callable[[], bytes]) -> bytes:
            what = f"strongest words of {about['block']}"
            return store.cached(self._key("words", what, about), make, {"kind": "words", "what": what})

        return keeping(keep)

    def many(
        self,
        kind: str,
        what: str,
        abouts: Sequence[Mapping[str, Any]],
        make: Callable[[Sequence[int]], Sequence[Any]],
    ) -> list[Any]:
        """Return plain data for each of `abouts`; those that are not there are made together.

        Args:
            kind: A key of `ROOMS`.
            what: What they are, for people.
            abouts: What else decides each; equal ones are made once.
            make: Makes the ones at the given places.
        """
        keys = [self._key(kind, what, about) for about in abouts]
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        found = {key: self.store.get(key) if self.store is not None else None for key in first}
        missing = sorted(first[key] for key, content in found.items() if content is None)
        for place, value in zip(missing, make(missing) if missing else (), strict=True):
            made = json.dumps(value).encode()
            found[keys[place]] = made
            if self.store is not None:
                self.store.keep(keys[place], made, {"kind": kind, "what": what})
        return [json.loads(found[key] or b"null") for key in keys]

    def under_changes(
        self,
        what: str,
        about: Mapping[str, Any],
        changes: Sequence[Change],
        make: Callable[[Sequence[Change]], Sequence[Any]],
    ) -> list[Any]:
        """Return plain data of what a model says under each change; that under edits is kept, equal ones are made once.

        What is said under other weights is made anew: nothing short of the weights tells them apart.

        Args:
            what: What they are, for people.
            about: What else decides them.
            changes: Edits, or other weights.
            make: Makes those under some changes.
        """
        edits = [one for one in changes if isinstance(one, Edit)]
        if len(edits) < len(changes):
            return list(make(changes))
        abouts = [{**about, **of_edit(edit)} for edit in edits]
        return self.many("generations", what, abouts, lambda places: make([changes[place] for place in places]))

    def _scores_key(self, locator: Any, about: Mapping[str, Any]) -> tuple[str, str]:
        """Return the key of a locator's scores, and what they are, for people."""
        stages = ", ".join(getattr(locator, "stages", ())) or type(locator).__name__
        return self._key("scores", "scores", {"locator": scorers(locator), **about}), stages

    def _key(self, kind: str, what: str, about: Mapping[str, Any]) -> str:
        return digest({"kind": kind, "what": what, "model": self.model, "code": _code(kind), **about})


NO_CACHE = Cache()
"""Nothing is known from before."""


def scorers(locator: Any) -> Any:
    """Return what decides a locator's scores, as plain data."""
    if not hasattr(locator, "stages"):
        return of_settings(locator)
    stages = [[name, of_settings(stage.scorer)] for name, stage in locator.stages.items()]
    return {"stages": stages, "site": locator.site, "scope": locator.scope, "target": of_settings(locator.target)}


def of_pairs(pairs: Sequence[Pair]) -> list[str]:
    """Return the digest of each pair."""
    return [of_pair(pair) for pair in pairs]


@lru_cache(maxsize=2)
def of_evaluation_set(evaluation_set: EvaluationSet) -> str:
    """Return the digest of an evaluation set: concept, vocabulary, pictures and questions."""
    samples = {part: [of_sample(one) for one in getattr(evaluation_set, part)] for part in ("target", "near", "far")}
    about = {
        "concept": of_concept(evaluation_set.concept),
        "vocabulary": [of_concept(one) for one in evaluation_set.vocabulary],
    }
    return digest(about | samples | {"questions": [of_question(one) for one in evaluation_set.questions]})


def of_edit(edit: Edit) -> dict[str, Any]:
    """Return what decides an edit: the neurons, the operator with its values, and where it acts."""
    where = {"positions": edit.positions, "phase": edit.phase}
    return {"neurons": edit.neurons.to_json(), "operator": of_settings(edit.operator), **where}


def of_encoder(encoder: Any) -> Any:
    """Return what decides the embeddings of an encoder."""
    from kedit.models.encoder import OwnLayers
    from kedit.models.identity import identity

    if isinstance(encoder, OwnLayers):
        model: Any = encoder.model
        return ["own layers", encoder.layer, identity(model)]
    told = of_settings(encoder)
    return [told, encoder.name, of_files(told)]


@cache
def _code(kind: str) -> list[Any]:
    """Return what tells the code that makes an entry of a kind.

    Taken once for a process: whoever edits a file meanwhile does not change the code that is running.
    """
    return [of_code(*ROOMS[kind]), of_libraries(*LIBRARIES[kind])]
