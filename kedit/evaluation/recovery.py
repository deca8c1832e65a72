"""How fast a concept is named again by a model that is taught it anew: a curve, the area under it, the way to half."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kedit.evaluation.statistics import Measured, Values, bootstrap_mean

HALF = 0.5


@dataclass(frozen=True, eq=False)
class Recovery:
    """Whether each held-out picture's caption names the concept, after so many steps: `[step, picture]`, 0 or 1.

    The pictures are those whose caption names it before the edit, so that the unedited rate is 1.
    """

    steps: tuple[int, ...]
    named: Values

    def curve(self, *, seed: int = 0) -> list[Measured]:
        """Return the share of pictures that name it, by step."""
        return [bootstrap_mean(row.tolist(), seed=seed) for row in self.named]

    @property
    def areas(self) -> Values:
        """The area under each picture's curve, by trapezoids, over the range of the steps: 0 to 1, `[picture]`."""
        areas: Values = np.asarray(np.trapezoid(self.named, self.steps, axis=0) / (self.steps[-1] - self.steps[0]))
        return areas

    def area(self, *, seed: int = 0) -> Measured:
        """Return the area under the curve, as a share of that of a model that names it throughout."""
        return bootstrap_mean(self.areas.tolist(), seed=seed)

    def steps_to_half(self, *, seed: int = 0, resamples: int = 2000) -> Measured:
        """Return after how many steps half of the unedited rate is there, between two steps by a straight line.

        Its interval is over pictures; in a draw of them that never comes so far, the last step stands for more.
        """
        if not (n := self.named.shape[1]):
            return Measured.missing("there is no sample to measure it on")
        value = reached(self.steps, self.named.mean(1).tolist())
        if value is None:
            return Measured.missing(f"half is not reached in {self.steps[-1]} steps")
        if n == 1:
            return Measured(value, None, None, 1, "an interval needs at least 2 samples")
        rng = np.random.default_rng(seed)
        drawn = [self.named[:, rng.integers(n, size=n)].mean(1).tolist() for _ in range(resamples)]
        ends = [self.steps[-1] if (one := reached(self.steps, row)) is None else one for row in drawn]
        low, high = np.quantile(ends, (0.025, 0.975))
        return Measured(value, min(value, float(low)), max(value, float(high)), n)


def reached(steps: Sequence[int], rates: Sequence[float], share: float = HALF) -> float | None:
    """Return where a curve first comes to `share`; None where it does not."""
    at = next((place for place, rate in enumerate(rates) if rate >= share), None)
    if at is None:
        return None
    if at == 0:
        return float(steps[0])
    part = (share - rates[at - 1]) / (rates[at] - rates[at - 1])
    return float(steps[at - 1] + part * (steps[at] - steps[at - 1]))
