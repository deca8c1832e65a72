"""What a reader may choose of the figures that a result saves; as light as the settings that say it."""

from dataclasses import dataclass
from typing import Literal, get_args

Format = Literal["png", "pdf", "svg"]
Width = Literal["single", "double"]


@dataclass(frozen=True)
class Style:
    """What a reader may choose of the figures that a result saves."""

    format: Format = "png"
    """Of the files: in PDF and SVG, text stays text. A drawing that is saved alone has that of its file's name."""
    titles: bool = True
    """Whether a figure says its finding above itself; a paper says it in the caption."""
    width: Width = "double"
    """Columns of a paper that a chart takes; pages of pictures, tables and what would not fit a page take two."""

    def __post_init__(self) -> None:
        for key, choices in (("format", get_args(Format)), ("width", get_args(Width))):
            if (value := getattr(self, key)) not in choices:
                raise ValueError(f"`{key}` is {', '.join(choices[:-1])} or {choices[-1]}; got {value!r}")
        if not isinstance(self.titles, bool):
            raise TypeError(f"`titles` is true or false; got {self.titles!r}")
