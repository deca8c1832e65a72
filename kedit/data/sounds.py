"""Recordings as WAV files hold them: decoded, mixed to one channel; what cannot be used says why."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kedit.data.pictures import SampleError, shown
from kedit.prompts import Sound

INTEGERS, FLOATS, EXTENSIBLE = 1, 3, 0xFFFE
"""The formats of a WAV file that are read; the last names one of the others further on."""
RATES = range(2_000, 400_000)
"""Samples a second that a recording can have; others are a broken header."""
SILENCE = 1e-4
"""The loudest a silent recording gets, of 1: 80 decibels below what a file can hold."""
NEVER_ENDS = 0xFFFFFFFF
"""The length that programs write which do not know it yet."""


def read_sound(path: Path) -> Sound:
    """Return the recording in a WAV file: whole numbers of 8, 16, 24 or 32 bits, or floats; channels are averaged.

    Raises:
        SampleError: It is missing, no such file, shorter than it says, empty, silent, or of an impossible rate.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise SampleError("missing_sound", f"there is no `{shown(path)}`") from error
    except OSError as error:
        raise SampleError("unreadable_sound", f"cannot read `{shown(path)}` ({error.strerror})") from error
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise SampleError(
            "unreadable_sound",
            f"`{shown(path)}` is no WAV file; convert it: ffmpeg -i {shown(path.name)} {shown(path.stem)}.wav",
        )
    chunks = dict(_chunks(content, path))
    if b"fmt " not in chunks or len(chunks[b"fmt "]) < 16 or b"data" not in chunks:
        raise SampleError("unreadable_sound", f"`{shown(path)}` has no format or no samples")
    channels = _samples(chunks[b"fmt "], chunks[b"data"], path)
    wave = channels.mean(1, dtype=np.float64).astype(np.float32)
    rate = struct.unpack_from("<I", chunks[b"fmt "], 4)[0]
    if rate not in RATES:
        raise SampleError("wrong_rate", f"`{shown(path)}` says that it has {rate} samples a second")
    if not len(wave):
        raise SampleError("empty_sound", f"`{shown(path)}` has no samples")
    if not np.isfinite(wave).all():
        raise SampleError("unreadable_sound", f"`{shown(path)}` has samples that are no numbers")
    if np.abs(wave).max() < SILENCE:
        raise SampleError("silent_sound", f"`{shown(path)}` is silent: nothing in it is louder than {SILENCE:g} of 1")
    return Sound(wave, int(rate))


def _chunks(content: bytes, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and the content of each part of a WAV file, up to its samples."""
    start = 12
    while start + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, start)
        body = content[start + 8 : start + 8 + size]
        if len(body) < size and size != NEVER_ENDS:
            raise SampleError("truncated_sound", f"`{shown(path)}` ends after {len(body)} of {size} bytes of {name!r}")
        yield name, body
        if name == b"data":
            return
        start += 8 + size + size % 2


def _samples(about: bytes, body: bytes, path: Path) -> NDArray[np.floating]:
    """Return the samples from -1 to 1: `[time, channel]`."""
    kind, n_channels, _, _, _, bits = struct.unpack_from("<HHIIHH", about)
    if kind == EXTENSIBLE and len(about) >= 26:
        kind = struct.unpack_from("<H", about, 24)[0]
    known = (kind == INTEGERS and bits in (8, 16, 24, 32)) or (kind == FLOATS and bits in (32, 64))
    if not known or not n_channels:
        raise SampleError(
            "unreadable_sound",
            f"`{shown(path)}` has format {kind} with {bits} bits and {n_channels} channels; what can be read: whole "
            "numbers of 8, 16, 24 or 32 bits, floats of 32 or 64",
        )
    width = bits // 8
    body = body[: len(body) // (width * n_channels) * width * n_channels]
    if kind == FLOATS:
        return np.frombuffer(body, f"<f{width}").reshape(-1, n_channels)
    if bits == 8:
        return (np.frombuffer(body, np.uint8).reshape(-1, n_channels).astype(np.float32) - 128) / 128
    # Three bytes become the upper ones of four.
    wide = np.zeros((len(body) // width, 4), np.uint8)
    wide[:, 4 - width :] = np.frombuffer(body, np.uint8).reshape(-1, width)
    whole: NDArray[np.floating] = wide.view("<i4").astype(np.float64).reshape(-1, n_channels) / 2**31
    return whole
