"""Reads the file that an offline W&B run leaves (a LevelDB log of protocol buffers)."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER, FULL, LAST = 32768, 7, 1, 4
PATIENCE = 30.0
"""Seconds to wait for W&B's own process to flush the end of a finished run."""


def records(path: Path) -> Iterator[Any]:
    """Yield every record of a `.wandb` file."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, buffer = HEADER, b""
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        _crc, length, kind = struct.unpack_from("<IHB", data, position)
        position += HEADER
        if kind == 0 and length == 0:
            position += max(left - HEADER, 0)
            continue
        buffer += data[position : position + length]
        position += length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(buffer)
            buffer = b""
            yield record


def offline_run(folder: Path) -> dict[str, Any]:
    """Return what the one finished offline run under `folder` holds.

    The keys are run, config, history, summary, files and exit.
    """
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + PATIENCE
    while (found := _collected(path))["exit"] is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def _collected(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"config": {}, "history": [], "summary": {}, "files": [], "exit": None, "run": None}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["run"] = record.run
            found["config"] |= _items(record.run.config.update)
        elif kind == "config":
            found["config"] |= _items(record.config.update)
        elif kind == "history":
            found["history"].append(_items(record.history.item))
        elif kind == "summary":
            found["summary"] |= _items(record.summary.update)
        elif kind == "files":
            found["files"] += [one.path for one in record.files.files]
        elif kind == "exit":
            found["exit"] = record.exit.exit_code
    return found


def _items(items: Any) -> dict[str, Any]:
    return {one.key or ".".join(one.nested_key): json.loads(one.value_json) for one in items}
