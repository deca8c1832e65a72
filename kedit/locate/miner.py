"""MINER: neurons that serve one kind of token (Huang et al. 2024, arXiv 2410.04819)."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from kedit.internals.sites import Site
from kedit.locate.importance import SPLITS, AttentionMode, Modality, Norm, Split, over_sets
from kedit.locate.modality_importance import WEIGHTS, Importances, ModalityImportance
from kedit.locate.modality_selection import RANDOM, Strategy, best, check_selection, picks
from kedit.locate.prompted import over_prompts
from kedit.locate.scoring import Tally, passes
from kedit.models.mllm import MLLM, Generated
from kedit.neurons import NeuronScores, NeuronSet, SiteName, ids_to
from kedit.prompts import Prompt
from kedit.samples import Pair, Progress, silent

logger = logging.getLogger(__name__)

UNION = "union"
"""The name of the last set that `Miner.select_each` returns."""


@dataclass(frozen=True)
class Miner:
    """Finds the neurons of each modality: separation, importance, aggregation and selection.

    Free of any target: captions are not needed, and pictures whose caption does not name the concept count too.

    Example:
        miner = Miner(ratio=0.02, modalities=["image"])
        sets = miner.select_each(miner.score(model, pairs))
        sets["text"], sets["image"], sets["union"]
    """

    site: SiteName = "act"
    split: Split = "special_text_separate"
    """Which kinds of tokens are told apart."""
    weights: Sequence[float] = WEIGHTS
    """Of the figures prob, mean, max, attn_k and attn_q."""
    attn_mode: AttentionMode = "faithful"
    norm: Norm = "layer"
    strategy: Strategy = "LA_MU"
    ratio: float = 0.02
    """How many neurons to pick, as a share of all; see `kedit.locate.modality_selection.picks`."""
    k: int | None = None
    """If set, how many different neurons to pick in all, in place of `ratio`."""
    modalities: Literal["all"] | Sequence[Modality] = "all"
    """Whose neurons the union is made of."""
    faithful: bool = False
    """Whether to repeat the reference's mistakes: see `picks` and `over_samples`."""
    seed: int = 0
    """For the strategy `random`."""

    def __post_init__(self) -> None:
        for name, value, known in (("site", self.site, get_args(SiteName)), ("split", self.split, tuple(SPLITS))):
            if value not in known:
                raise ValueError(f"`{name}` is one of {', '.join(known)}, got {value!r}")
        object.__setattr__(self, "weights", self.scorer.weights)
        check_selection(self.strategy, self.ratio)
        if self.k is not None and (not isinstance(self.k, int) or self.k < 0):
            raise ValueError(f"`k` is a number of neurons, 0 or more, got {self.k!r}")
        if self.modalities != "all":
            object.__setattr__(self, "modalities", tuple(self.modalities))
            self._check_modalities()

    @property
    def scorer(self) -> Importances:
        """What measures the importance to all modalities of the split at once."""
        return Importances(SPLITS[self.split], self.weights, self.attn_mode, self.norm, self.faithful)

    def score(
        self,
        model: MLLM,
        pairs: Sequence[Pair],
        *,
        captions: Sequence[Generated] | None = None,
        progress: Progress = silent,
    ) -> dict[str, NeuronScores]:
        """Return the importance of every neuron to each modality that the prompts of `pairs` have.

        One forward of the prompt for each pair, with its original picture.

        Args:
            model: The model, unedited.
            pairs: Whose originals to show; all of them count.
            captions: Not needed.
            progress: Shows the batches go by.
        """
        return self.score_sets(model, {"pairs": pairs}, progress=progress)

    def score_sets(
        self, model: MLLM, sets: Mapping[str, Sequence[Pair]], *, progress: Progress = silent
    ) -> dict[str, NeuronScores]:
        """Return the same over several data sets, in which a modality counts once, however large the set.

        Of each modality the mean over the sets that have it.
        """
        _refuse_empty(sets, "counterfactual pairs")
        began = time.perf_counter()
        site = model.site(self.site)
        asked = [[pair.sample.asked(model.prompt) for pair in pairs] for pairs in sets.values()]
        made = [over_prompts(model, site, prompts, self.scorer, progress) for prompts in asked]
        pairs = [pair for one in sets.values() for pair in one]
        about = {
            "concept": ",".join(dict.fromkeys(pair.concept.name for pair in pairs)),
            "samples": ids_to(pair.sample.id for pair in pairs),
        }
        return self._scores(made, site, self._provenance(model, about, len(pairs), began))

    def score_prompts(
        self, model: MLLM, sets: Mapping[str, Sequence[Prompt]], *, progress: Progress = silent
    ) -> dict[str, NeuronScores]:
        """Return the same over prompts of any medium, as the paper has it: no concept and no counterfactual.

        One forward for each prompt. Of each modality the mean over the sets that have it, such as data sets or kinds of
        questions.
        """
        _refuse_empty(sets, "prompts")
        began = time.perf_counter()
        site = model.site(self.site)
        made = [over_prompts(model, site, prompts, self.scorer, progress) for prompts in sets.values()]
        counts = {name: len(prompts) for name, prompts in sets.items()}
        about = {"concept": "none", "samples": ",".join(f"{name} x {count}" for name, count in counts.items())}
        return self._scores(made, site, self._provenance(model, about, sum(counts.values()), began))

    def _provenance(self, model: MLLM, about: Mapping[str, str], n_samples: int, began: float) -> dict[str, str]:
        forwards, backwards = passes([self.scorer], n_samples)
        return {
            "model": model.name,
            **about,
            "target": "none",
            "n_samples": str(n_samples),
            "skipped": "0",
            "forwards": str(forwards),
            "backwards": str(backwards),
            "seconds": f"{time.perf_counter() - began:.3f}",
        }

    def _scores(self, made: Sequence[Tally], site: Site, about: Mapping[str, str]) -> dict[str, NeuronScores]:
        """Return what was made of several sets as one, by modality; those that no sample has are left out."""
        provenance = {**about, "invalid": str(sum(one.n_invalid for one in made))}
        over_all = over_sets([one.values(self.scorer) for one in made])
        return {
            name: NeuronScores(site.by_layer_number(values).float(), repr(self._stage(name)), self.site, provenance)
            for name, values in zip(SPLITS[self.split], over_all, strict=True)
            if bool((values.nan_to_num(0.0) != 0).any())
        }

    def limited(self, k: int) -> "Miner":
        """Return the same locator with a ratio at which it picks `k` neurons in all."""
        return replace(self, k=k)

    def select(self, scores: Mapping[str, NeuronScores]) -> NeuronSet:
        """Return the neurons of the chosen modalities together; instant and pure."""
        return self.select_each(scores)[UNION]

    def select_each(self, scores: Mapping[str, NeuronScores]) -> dict[str, NeuronSet]:
        """Return the neurons of each modality and last, as `union`, those of the chosen ones.

        The strategy `random` has one set without a modality, called `random`. Nothing at all is a warning, no error.
        """
        known: dict[str, NeuronScores] = {name: scores[name] for name in SPLITS[self.split] if name in scores}
        if not known:
            text = ", ".join(SPLITS[self.split])
            raise ValueError(f"no scores for any of {text} (`split={self.split}`); there are {', '.join(scores)}")
        chosen = tuple(known) if self.modalities == "all" else self.modalities
        if missing := [name for name in chosen if name not in known]:
            raise ValueError(f"`modalities` asks for {', '.join(missing)}; the samples have {', '.join(known)}")
        values = {name: one.values for name, one in known.items()}
        if self.k is None:
            picked = picks(values, self.strategy, self.ratio, seed=self.seed, faithful=self.faithful)
        else:
            picked = best(values, self.strategy, self.k, chosen, seed=self.seed)
        site = next(iter(known.values())).site
        names = [RANDOM] if self.strategy == RANDOM else list(known)
        sets = {name: NeuronSet(tuple(picked.get(name, ())), site) for name in names}
        wanted = {one for name in (names if self.strategy == RANDOM else chosen) for one in sets[name]}
        if not wanted and self.k != 0:
            self._warn(known)
        return sets | {UNION: NeuronSet(tuple(wanted), site)}

    def _stage(self, name: Modality) -> ModalityImportance:
        return ModalityImportance(name, self.weights, self.attn_mode, self.norm, self.faithful)

    def _check_modalities(self) -> None:
        known = SPLITS[self.split]
        if not self.modalities or not set(self.modalities) <= set(known):
            raise ValueError(
                f"`modalities` is `all` or a list of what `split={self.split}` tells apart ({', '.join(known)}), "
                f"got {self.modalities!r}"
            )

    def _warn(self, known: Mapping[str, NeuronScores]) -> None:
        one = next(iter(known.values()))
        n_neurons = one.values.numel() - one.n_missing
        logger.warning(
            "`%s` picks no neuron: ratio %g of %d neurons is %.4g, to be shared out over %d modalities and %d layers; "
            "raise `ratio` or set `k`",
            self.strategy, self.ratio, n_neurons, self.ratio * n_neurons, len(known), len(one.values),
        )  # fmt: skip


def _refuse_empty(sets: Mapping[str, Sequence[object]], what: str) -> None:
    if empty := [name for name, one in sets.items() if not one] or ([] if sets else ["all"]):
        raise ValueError(f"there is nothing to locate in: no {what} in `{empty[0]}`")
