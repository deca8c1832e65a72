"""Where a model's weights go, and as what: device, data type, several devices, fewer bits."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

Bits = Literal["8bit", "4bit"]
"""How bitsandbytes may store weights."""
DTYPES = ("float32", "float16", "bfloat16")
ELSEWHERE = {"fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32", "float": "float32"}
"""What other programs call them."""


@dataclass(frozen=True)
class Placement:
    """Where a model's weights go, and as what.

    Args:
        device: A device of torch, or `auto`: the GPU where there is one, else the CPU.
        dtype: `float32`, `float16` or `bfloat16`; or `auto`: as stored on a GPU, 32-bit on the CPU, which is slow
            at less.
        device_map: Spreads the weights over devices, memory and disk, as accelerate does: `auto`, `balanced`,
            `sequential`, or a device for each module. It takes the place of `device`.
        max_memory: How much of each device `device_map` may fill, such as `{0: 20GiB, cpu: 60GiB}`.
        offload_folder: Where `device_map` puts the weights that fit nowhere else.
        quantization: `8bit` or `4bit`, by bitsandbytes on a GPU.
    """

    device: str = "auto"
    dtype: str = "auto"
    device_map: str | Mapping[str, Any] | None = None
    max_memory: Mapping[Any, Any] | None = None
    offload_folder: str | None = None
    quantization: Bits | None = None

    def __post_init__(self) -> None:
        if self.device_map is not None and self.device != "auto":
            raise ValueError(f"`device_map` places the weights, so `device` stays `auto`; got {self.device!r}")
        for key in ("max_memory", "offload_folder"):
            if self.device_map is None and getattr(self, key) is not None:
                raise ValueError(f"`{key}` is read by `device_map`, which is not set; set `device_map=auto`")
        if self.quantization not in (None, "8bit", "4bit"):
            raise ValueError(f"`quantization` is 8bit, 4bit or null, got {self.quantization!r}")
        data_type(self.dtype)

    def options(self) -> dict[str, Any]:
        """Return what `from_pretrained` is given.

        Raises:
            ValueError: There is no such device here, or what quantization needs is missing.
        """
        where = device(self.device)
        stored = "auto" if where.type != "cpu" else torch.float32
        given: dict[str, Any] = {"dtype": data_type(self.dtype) or stored}
        if self.device_map is not None:
            given["device_map"] = self.device_map if isinstance(self.device_map, str) else dict(self.device_map)
            if self.max_memory is not None:
                given["max_memory"] = {_device_key(key): value for key, value in self.max_memory.items()}
            if self.offload_folder is not None:
                given["offload_folder"] = str(Path(self.offload_folder).expanduser())
        elif where.type != "cpu":
            given["device_map"] = {"": where}
        if self.quantization is not None:
            given["quantization_config"] = _fewer_bits(self.quantization, where)
        return given


def device(name: str) -> torch.device:
    """Return the device called `name`; `auto` is the GPU where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"`device` is auto, cpu, cuda, cuda:0 and so on, got {name!r}") from error
    count = torch.cuda.device_count()
    if found.type == "cuda" and (found.index or 0) >= count:
        raise ValueError(f"`device` is {name!r}, and PyTorch sees {count or 'no'} CUDA devices; set `device=auto`")
    return found


def data_type(name: str) -> torch.dtype | None:
    """Return the data type called `name`; None for `auto`."""
    if name == "auto":
        return None
    if name in ELSEWHERE:
        raise ValueError(f"`dtype={name}` is called `{ELSEWHERE[name]}` here: `dtype={ELSEWHERE[name]}`")
    if name not in DTYPES:
        raise ValueError(f"`dtype` is auto, {', '.join(DTYPES[:-1])} or {DTYPES[-1]}, got {name!r}")
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def _device_key(key: Any) -> Any:
    """Return a device of `max_memory`: a number where a configuration could only write its digits."""
    return int(key) if isinstance(key, str) and key.isdigit() else key


def _fewer_bits(bits: Bits, where: torch.device) -> Any:
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            f"`quantization={bits}` needs the package `bitsandbytes`, which is not installed; "
            "install it with `pip install 'kedit[quantization]'`"
        )
    if where.type == "cpu":
        raise ValueError(f"`quantization={bits}` needs a GPU, and PyTorch sees none; leave it out, or use `device_map`")
    from transformers import BitsAndBytesConfig

    if bits == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
