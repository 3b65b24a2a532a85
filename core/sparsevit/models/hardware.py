"""Which device and number format the networks run in, decided by what the machine reports."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from sparsevit.errors import InputError
from sparsevit.settings import STRICT

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, config=STRICT)
class HardwareSettings:
    """Where the networks run."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="auto takes a CUDA device, else Apple's, else the CPU."
    )
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        default="auto", description="auto takes bf16-mixed where the device has matrix units for it, else 32-true."
    )


@plain_dataclass(frozen=True)
class DeviceInfo:
    """A device, its memory in bytes, and whether it has matrix units for bfloat16."""

    name: str
    kind: str
    memory: int
    bf16: bool


def available_devices() -> list[DeviceInfo]:
    """List the devices of this machine, the preferred one first."""
    found = [
        DeviceInfo(
            torch.cuda.get_device_name(i), "cuda", torch.cuda.get_device_properties(i).total_memory, _cuda_bf16(i)
        )
        for i in range(torch.cuda.device_count())
    ]
    if torch.backends.mps.is_available():
        found.append(DeviceInfo("Apple GPU", "mps", torch.mps.recommended_max_memory(), False))
    return [*found, DeviceInfo(f"CPU, {torch.get_num_threads()} threads", "cpu", _main_memory(), _cpu_bf16())]


def resolve_device(settings: HardwareSettings) -> torch.device:
    """Choose the device.

    Raises:
        InputError: The device asked for is not there.
    """
    kinds = [d.kind for d in available_devices()]
    kind = kinds[0] if settings.device == "auto" else settings.device
    if kind not in kinds:
        raise InputError(
            f"Device '{kind}' is not available; this machine has {', '.join(dict.fromkeys(kinds))}.",
            "device",
            "Choose another device or 'auto'.",
        )
    return torch.device(kind)


def resolve_precision(settings: HardwareSettings, device: torch.device) -> str:
    """The Fabric precision for a device: mixed bfloat16 only where it is a gain."""
    if settings.precision != "auto":
        return settings.precision
    fast = next(d.bf16 for d in available_devices() if d.kind == device.type)
    return "bf16-mixed" if fast else "32-true"


def autocast(settings: HardwareSettings, device: torch.device) -> torch.autocast:
    """The autocast context of `resolve_precision`, for inference."""
    precision = resolve_precision(settings, device)
    dtype = torch.float16 if precision.startswith("16") else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "32-true")


def _cuda_bf16(index: int) -> bool:
    return torch.cuda.get_device_capability(index)[0] >= 8


def _cpu_bf16() -> bool:
    """Whether the CPU has matrix units for bfloat16 (AMX).

    AVX512-BF16 alone is no gain: on such a CPU steps of the transformer took 1.8 times and those of the U-Net 1.4 times
    as long as with 32 bits.
    """
    return CPUINFO.exists() and "amx_bf16" in CPUINFO.read_text(encoding="utf-8", errors="replace")


def _main_memory() -> int:
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return 0
    line = next(row for row in meminfo.read_text(encoding="utf-8").splitlines() if row.startswith("MemTotal"))
    return int(line.split()[1]) * 1024
