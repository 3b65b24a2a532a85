"""What each surviving attention head looks at, as layers, and the classes that it speaks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from rasterio.windows import Window
from torch import Tensor

from sparsevit.errors import InputError
from sparsevit.geodata.scene import Scene
from sparsevit.geodata.writer import float_raster
from sparsevit.mapping.predict import MappingSettings
from sparsevit.mapping.streaming import BatchRunner, Evaluate, sweep
from sparsevit.models.hardware import HardwareSettings, autocast, resolve_device
from sparsevit.models.landcover import LandCoverModel
from sparsevit.models.model_file import ModelCard
from sparsevit.reporting import Reporter

FloatArray = npt.NDArray[np.float32]

SPEAKS_FOR = 0.2
"""Correlation from which a head is said to speak for a class."""


@dataclass(frozen=True)
class Head:
    """One surviving head.

    Attributes:
        block: Its block, from 1.
        head: Its place among the heads that the block had before pruning, from 1.
        gate: P(open) when the gates were closed, 0–1; none if the model never closed any.
        correlation: Pearson correlation of its map with the probability of each class, over all pixels of an area.
    """

    block: int
    head: int
    gate: float | None
    correlation: dict[str, float]

    @property
    def name(self) -> str:
        """The name of its layer: which head, its gate, and the classes it speaks for, the strongest first."""
        gate = "" if self.gate is None else f", gate {self.gate:.2f}"
        spoken = sorted(((r, n) for n, r in self.correlation.items() if r >= SPEAKS_FOR), reverse=True)
        classes = ", ".join(f"{name} {r:+.2f}" for r, name in spoken) or "no class"
        return f"Block {self.block}, head {self.head}{gate}: {classes}"


def surviving_heads(card: ModelCard, correlation: npt.NDArray[np.float64], names: list[str]) -> list[Head]:
    """The heads of a model in the order of their layers.

    Args:
        card: The model's card.
        correlation: Of heads with classes `[heads, K]`.
        names: Class names.
    """
    places = [(b, h) for b, block in enumerate(card.head_mask) for h, kept in enumerate(block) if kept]
    gates = [card.head_gates[b][h] if card.head_gates else None for b, h in places]
    rows = [dict(zip(names, map(float, row), strict=True)) for row in correlation]
    return [Head(b + 1, h + 1, gate, r) for (b, h), gate, r in zip(places, gates, rows, strict=True)]


class Correlation:
    """Pearson correlation between channels, from values that come piece by piece; memory does not grow.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._sum = np.zeros(channels)
        self._products = np.zeros((channels, channels))

    def add(self, values: FloatArray) -> None:
        """Count values `[channels, n]`."""
        v = values.astype(np.float64)
        self._count += v.shape[1]
        self._sum += v.sum(axis=1)
        self._products += v @ v.T

    def matrix(self) -> npt.NDArray[np.float64]:
        """`[channels, channels]`; 0 for a channel that never changes."""
        mean = self._sum / max(self._count, 1)
        covariance = self._products / max(self._count, 1) - np.outer(mean, mean)
        variance = covariance.diagonal()
        varies = variance > 1e-9 * (1e-12 + mean**2)  # beyond rounding
        spread = np.sqrt(np.where(varies, variance, np.inf))
        matrix: npt.NDArray[np.float64] = np.clip(covariance / np.outer(spread, spread), -1, 1)
        return matrix


def heads_and_classes(model: LandCoverModel, hardware: HardwareSettings) -> Evaluate:
    """Evaluate tiles `[B, C, H, W]`: class-token attention of each head, then class probabilities `[B, heads+K, H, W]`.

    Attention is in units of its mean over the patches: 1 is no preference, 0 is what a head never looks at.
    """
    device = resolve_device(hardware)
    model = model.to(device).eval()
    vit = model.vit
    assert vit is not None

    def evaluate(tiles: Tensor, _: list[Window]) -> Tensor:
        with torch.inference_mode(), autocast(hardware, device):
            raw = tiles.to(device)
            looks = vit.class_attention(model.normalise(raw)).float()
            probabilities = model(raw).exp()
        looks = looks * looks.shape[2] * looks.shape[3]
        looks = F.interpolate(looks, size=tuple(tiles.shape[-2:]), mode="bilinear", align_corners=False)
        return torch.cat([looks, probabilities], dim=1)

    return evaluate


def write_heads(
    scene: Scene,
    area: Window,
    model: LandCoverModel,
    card: ModelCard,
    names: list[str],
    path: Path,
    settings: MappingSettings,
    hardware: HardwareSettings,
    provenance: dict[str, str],
    reporter: Reporter,
) -> list[Head]:
    """Write one band per surviving head, named by what it looks at.

    Args:
        scene: Exactly the bands of the model.
        area: Window of the scene.
        model: A model with a transformer.
        card: Its card.
        names: Its class names.
        path: Raster to write (.tif).
        settings: Overlap, batch, format.
        hardware: Device and precision.
        provenance: Tags of the raster.
        reporter: Progress.

    Raises:
        InputError: The area has no pixel with data.
    """
    count = card.heads_kept
    runner = BatchRunner(heads_and_classes(model, hardware), settings.predict_batch, reporter)
    channels, seen = count + len(names), False
    correlation = Correlation(channels)
    with float_raster(path, scene.grid.crop(area), [""] * count, provenance, settings.cog) as writer:
        for band in sweep(scene, area, model.architecture.tile, settings.overlap, channels, runner, reporter):
            writer.write_rows(band.row, np.where(band.valid, band.evidence[:count], np.nan), band.col)
            correlation.add(band.evidence[:, band.valid])
            seen = seen or bool(band.valid.any())
        if not seen:
            raise InputError(
                f"{scene.paths[0].name} has no pixel with data in the area.", "scene", "Check nodata value and extent."
            )
        heads = surviving_heads(card, correlation.matrix()[:count, count:], names)
        for k, head in enumerate(heads):
            writer.describe(k, head.name)
    return heads
