"""What a run leaves for its page alone: pictures, the neurons' words in both directions, and who made it."""

import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kedit import __version__
from kedit.fingerprints import of_libraries
from kedit.results.run_folder import Run

logger = logging.getLogger(__name__)

FILE = "page.json"
LIBRARIES = ("torch", "transformers", "numpy", "pillow", "diffusers")
"""Those that decide numbers and pictures."""


@dataclass(frozen=True)
class Firing:
    """A picture in which a neuron fires."""

    id: str
    """The sample's."""
    value: float
    """The activation where it is strongest, with its sign."""
    caption: str
    """What the model says of the picture."""
    picture: str
    """The picture under the heat map, as a data URI."""


@dataclass(frozen=True)
class Card:
    """What the page says of a neuron, beside its scores."""

    layer: int
    index: int
    words: tuple[str, ...]
    """Those it raises most when it fires."""
    opposite: tuple[str, ...]
    """Those it raises most with an activation of the other sign."""
    fires: str
    """On which side of zero it fires; empty where nobody knows."""
    pictures: tuple[Firing, ...] = ()
    """The pictures that fire it most, the strongest first."""


@dataclass(frozen=True)
class Materials:
    """What a page needs beside the other files of a run."""

    cards: tuple[Card, ...] = ()
    """The located neurons, the best first."""
    why: str = ""
    """Why the cards have no pictures; empty where they have."""
    captions: Mapping[int, str] = field(default_factory=dict)
    """Pictures as data URIs, by the number of their row in captions.jsonl; in the order of the page."""

    def to_json(self) -> dict[str, Any]:
        """Return what page.json holds."""
        return {
            "versions": versions(),
            "captions": [{"row": row, "picture": uri} for row, uri in self.captions.items()],
            "cards": [asdict(card) for card in self.cards],
            "why": self.why,
        }


def versions() -> dict[str, str]:
    """Return the releases of kedit, Python and the libraries that run now."""
    installed = {name: release for name, release in of_libraries(*LIBRARIES).items() if release}
    return {"kedit": __version__, "python": platform.python_version(), **installed}


def leave_materials(run: Run, make: Callable[[], Materials] = Materials) -> None:
    """Leave in the folder of a run what `make` returns for its page; where that fails, the run goes on without it."""
    try:
        run.save_json(FILE, make().to_json())
    except Exception as error:  # a page is no reason to lose a run
        logger.warning("the page has no pictures of its own: %s", " ".join(str(error).split()), exc_info=error)
