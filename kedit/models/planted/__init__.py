"""Real tiny LLaVAs whose weights are written by hand, so that the right answer is known."""

from kedit.models.planted.pictures import HOUSE_CONCEPT, STAR_CONCEPT, picture, without
from kedit.models.planted.smallest import Planted, planted

__all__ = ["HOUSE_CONCEPT", "STAR_CONCEPT", "Planted", "picture", "planted", "without"]
