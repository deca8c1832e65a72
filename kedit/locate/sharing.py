"""Selecting by votes: the neurons that most samples share, with a share that adapts to how many those are."""

from dataclasses import dataclass

from kedit.neurons import NeuronId, NeuronScores, NeuronSet


@dataclass(frozen=True)
class Sharing:
    """Neurons that at least `share` of the samples vote for, moved by `step` until their number is right.

    Dai et al. 2022, arXiv 2104.08696, section 3.3, with the numbers of their code (2_get_kn.py): share 0.7 of the
    prompts and no fewer than 3 of them; while there are fewer than 2 neurons the share falls by 0.05, while there are
    more than 5 it rises, and the last of 6 attempts stands. Their code adapts it to the mean number of
    neurons of all facts of a relation, here it is the number of neurons of the concept. With fewer samples than
    `at_least` nothing can pass.
    """

    share: float = 0.7
    between: tuple[int, int] = (2, 5)
    """The fewest and the most neurons that are right."""
    step: float = 0.05
    iterations: int = 6
    """How many shares are tried; with 1 the share stays what it is."""
    at_least: int = 3
    """The fewest samples that have to vote for a neuron."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "between", tuple(self.between))
        for name in ("share", "step"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` is a share of the samples between 0 and 1, got {getattr(self, name)}")
        if len(self.between) != 2 or not 0 <= self.between[0] <= self.between[1]:
            raise ValueError(f"`between` is the fewest and the most neurons to keep, got {self.between}")
        for name in ("iterations", "at_least"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is 1 or more, got {getattr(self, name)}")

    def __call__(self, scores: NeuronScores, among: NeuronSet | None = None) -> NeuronSet:
        """Return the neurons that enough samples vote for.

        Raises:
            ValueError: The scores are no votes of the samples that their provenance names.
        """
        n_samples, votes = _counted(scores, among)
        kept: list[NeuronId] = []
        share = self.share
        for _ in range(self.iterations):
            # Rounded first: 0.55 * 20 is 11.000000000000002.
            needed = max(round(share * n_samples, 9), self.at_least)
            kept = [one for one, count in votes.items() if count >= needed]
            if self.between[0] <= len(kept) <= self.between[1]:
                break
            share += -self.step if len(kept) < self.between[0] else self.step
        return scores.chosen(kept)


def _counted(scores: NeuronScores, among: NeuronSet | None) -> tuple[int, dict[NeuronId, int]]:
    """Return the number of samples and how many of them vote for each neuron."""
    if "n_samples" not in scores.provenance:
        raise ValueError("sharing needs the number of samples that voted; the scores have no `n_samples` in provenance")
    n_samples = int(scores.provenance["n_samples"])
    ranked = scores.ranking(among)
    counts = scores.of(ranked).double() * n_samples
    whole = counts.round()
    wrong = (counts - whole).abs() > 1e-3
    wrong |= (whole < 0) | (whole > n_samples)
    if wrong.any():
        raise ValueError(
            f"sharing counts the votes of {n_samples} samples, and {scores.method} scores a neuron "
            f"{(counts[wrong][0] / n_samples).item():.6g}; set its `over_samples` to a `Vote`"
        )
    return n_samples, dict(zip(ranked, whole.int().tolist(), strict=True))
