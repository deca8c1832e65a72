"""Models that read pictures, sounds and text, and write or complete text."""

from kedit.models.loading import load, wrap

__all__ = ["load", "wrap"]
