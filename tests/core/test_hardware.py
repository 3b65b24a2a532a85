"""What automatic precision takes, by what the processor reports; and what precisions and devices change in maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import tiny_architecture

from sparsevit.models import hardware
from sparsevit.models.hardware import HardwareSettings, autocast, resolve_precision
from sparsevit.models.landcover import Architecture, LandCoverModel
from sparsevit.models.vit import ViTConfig
from sparsevit.models.weaktr import weaktr_config


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


def architecture_of(network: str) -> Architecture:
    """A small model in which one network has all the say."""
    base = replace(tiny_architecture(), weights={network: 1.0})
    assert isinstance(base.vit, ViTConfig)
    return {
        "vit": base,
        "weaktr": replace(base, vit=weaktr_config(base.vit, "repaired"), weights={"vit": 1.0}),
        "spectral": base,
        "unet": replace(base, encoder="resnet18"),
        "segmenter": replace(base, segmenter=base.vit),
    }[network]


@pytest.mark.parametrize("network", ["vit", "weaktr", "spectral", "unet", "segmenter"])
@pytest.mark.parametrize(
    ("device", "precision", "tolerance"),
    [("cpu", "bf16-mixed", 0.2), ("cuda", "32-true", 1e-2), ("cuda", "bf16-mixed", 0.2), ("cuda", "16-mixed", 0.05)],
)
def test_devices_and_precisions_map_alike(network: str, device: str, precision: str, tolerance: float) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    torch.manual_seed(0)
    model, x = LandCoverModel(architecture_of(network)).eval(), torch.randn(4, 3, 8, 8)
    settings = HardwareSettings(device=device, precision=precision)  # type: ignore[arg-type]
    with torch.inference_mode():
        expected = model(x).exp()
        with autocast(settings, torch.device(device)):
            found = model.to(device)(x.to(device)).cpu().exp()
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < tolerance
    assert precision == "32-true" or not torch.equal(found, expected)  # mixed precision was at work
