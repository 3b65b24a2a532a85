"""What automatic precision takes, by what the processor reports."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparsevit.models import hardware
from sparsevit.models.hardware import HardwareSettings, resolve_precision


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        ("fpu sse2 avx2 avx512f", "32-true"),
        ("fpu sse2 avx2 avx512f avx512_bf16", "32-true"),  # slower with bfloat16 than without
        ("fpu sse2 avx2 avx512f avx512_bf16 amx_bf16 amx_tile", "bf16-mixed"),
    ],
)
def test_mixed_precision_needs_matrix_units(
    flags: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n", encoding="utf-8")
    monkeypatch.setattr(hardware, "CPUINFO", cpuinfo)
    assert resolve_precision(HardwareSettings(), torch.device("cpu")) == precision
    assert resolve_precision(HardwareSettings(precision="bf16-mixed"), torch.device("cpu")) == "bf16-mixed"


def test_a_processor_that_reports_nothing_computes_with_32_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "missing")
    assert resolve_precision(HardwareSettings(), torch.device("cpu")) == "32-true"
