"""Pictures of any kind as everything here reads them: upright, in RGB."""

import numpy as np
from PIL import Image, ImageOps


def upright(picture: Image.Image) -> Image.Image:
    """Return a picture turned as its EXIF says."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # Nothing says how a picture with broken EXIF is turned.
        return picture


def in_rgb(picture: Image.Image) -> Image.Image:
    """Return a picture in RGB, as a copy: deep grays scaled to 8 bits, transparency on white.

    Raises:
        ValueError: Its levels are floats, of which nothing says which is white.
    """
    if picture.mode == "F":
        raise ValueError("its levels are floats, and nothing says which of them is white; save it with 8 or 16 bits")
    if picture.mode.startswith("I"):
        levels = np.array(picture).astype(np.int64)
        # Pillow would clip 16 bits to 8 instead of scaling them.
        deep = picture.mode != "I" or levels.max() > 255
        picture = Image.fromarray((levels >> 8 if deep else levels).clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        layers = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), layers)
    # From the pixels alone: processors would turn the picture once more if it kept its EXIF.
    return Image.fromarray(np.asarray(picture.convert("RGB")))
