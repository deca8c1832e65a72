"""A result that leaves itself in a folder."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from kedit.notebook import Shown
from kedit.plots import Style
from kedit.results.run_folder import Run, result_folder


class Saved(Shown, ABC):
    """What a pipeline returns: it prints itself, and saves itself as the command of its name does."""

    FILE: ClassVar[str] = "report.json"
    """Where `to_json` is kept, and by which a finished folder is told."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return what `FILE` holds; a function of what was asked, without times."""

    @abstractmethod
    def save_in(self, run: Run, *, figures: bool | Style = True, page: bool = True) -> None:
        """Leave what `save` leaves in the folder of a run that is open."""

    def save(
        self, folder: str | Path, *, figures: bool | Style = True, page: bool = True, overwrite: bool = False
    ) -> Path:
        """Leave all of it in `folder` (`save_in` says what), with a STATUS, and return the folder.

        `figures` is a `Style` for another format, width or no titles, False for none; `page` is whether to leave
        report.html. A finished run of another result stays, and is refused, unless `overwrite`.
        """
        with result_folder(folder, self.FILE, self.to_json(), overwrite=overwrite) as run:
            self.save_in(run, figures=figures, page=page)
        return Path(folder)
