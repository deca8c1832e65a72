"""Two-stage filtering, the method kedit is the reference of, as one call."""

from kedit.locate.difference import ActivationDifference
from kedit.locate.gradcam import GradCAM
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import Quantile


def two_stage(difference: float = 0.95, gradcam: float = 0.9, of_max: float = 0.2, *, signed: bool = False) -> Locator:
    """Return two-stage filtering (Sato and Takagi 2025, arXiv 2503.22941) with kedit's defaults.

    The paper gives no thresholds; `conf/locate/two_stage.yaml` has every choice that it leaves open.

    Args:
        difference: The quantile of all neurons' activation differences above which one is a candidate.
        gradcam: The quantile of the candidates' activation x gradient above which one is kept.
        of_max: The share of the best candidate's activation x gradient that one must also reach.
        signed: Whether the difference is that of the activations, as in the paper, and not of their sizes; see
            `ActivationDifference`.
    """
    return Locator(
        {
            "difference": Stage(ActivationDifference(signed=signed), Quantile(difference)),
            "gradcam": Stage(GradCAM(), Quantile(gradcam, of_max=of_max)),
        }
    )
