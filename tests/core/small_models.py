"""A small textured scene, tiny settings and reporters that the tests of jobs and training share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_rasters import RESOURCES, write_raster

from sparsevit.models.landcover import Architecture, LandCoverModel
from sparsevit.models.model_file import ModelCard, save_model
from sparsevit.models.vit import ViTConfig
from sparsevit.reporting import Reporter
from sparsevit.training.tiles import TaggedTiles, TileStore

SCHEME = RESOURCES / "schemes" / "dfc2020.json"
CODES = (1, 6, 10)  # forest, croplands, water
SIDE = 16

CUTTING: dict[str, Any] = {"tile_size_m": 160, "block_size_m": 480, "gap_m": 0, "validation_share": 0.25}
PHASES: dict[str, Any] = {
    "epochs": 2,
    "gate_epochs": 2,
    "finetune_epochs": 1,
    "spectral_epochs": 3,
    "device": "cpu",
    "precision": "32-true",
}
TRAINING: dict[str, Any] = PHASES | {"heads_kept": 0.3, "controls": False}
REFINING: dict[str, Any] = {"rounds": 1, "refine_epochs": 1}
"""Settings with which every step takes seconds; what comes out is no map, but it is complete."""


class Diary(Reporter):
    """Remembers what a job said; stops it once `progress` reaches `stop_at`."""

    def __init__(self, stop_at: float = 2.0, stop_phase: str = "") -> None:
        self.stop_at, self.stop_phase, self.stopped = stop_at, stop_phase, False
        self.fractions: list[float] = []
        self.metrics: dict[str, list[float]] = {}
        self.lines: list[str] = []

    def progress(self, fraction: float, phase: str = "") -> None:
        self.fractions.append(fraction)
        self.stopped |= fraction >= self.stop_at and self.stop_phase in phase

    def metric(self, name: str, step: int, value: float) -> None:
        self.metrics.setdefault(name, []).append(value)

    def log(self, text: str, level: str = "info") -> None:
        self.lines.append(text)

    def cancelled(self) -> bool:
        return self.stopped


def class_mosaic(side: int, seed: int = 0) -> np.ndarray:
    """Rectangles of 24 × 20 pixels, each of one of three classes (codes)."""
    cells = np.random.default_rng(seed).choice(CODES, (side // 24 + 1, side // 20 + 1))
    return np.kron(cells, np.ones((24, 20)))[:side, :side].astype(np.uint8)


def textured(classes: np.ndarray, seed: int = 0) -> np.ndarray:
    """Two bands in which the three classes differ by level and by noise."""
    rng = np.random.default_rng(seed)
    levels = {1: (400, 3000), 6: (1500, 2000), 10: (300, 200)}
    values = np.zeros((2, *classes.shape), np.float32)
    for code, level in levels.items():
        for band in range(2):
            values[band][classes == code] = level[band]
    return values + rng.normal(0, 80, values.shape).astype(np.float32)


def write_place(folder: Path, side: int = 112) -> tuple[Path, Path]:
    """The scene and its class raster as GeoTIFFs."""
    classes = class_mosaic(side)
    scene = write_raster(folder / "scene.tif", textured(classes), names=["B04", "B08"], nodata=-9999)
    return scene, write_raster(folder / "classes.tif", classes, nodata=255)


def tagged_tiles(count: int, classes: int = 3, side: int = 8, seed: int = 0) -> tuple[TaggedTiles, torch.Tensor]:
    """Tiles of two halves, each of one class that is plain from its band; and their true masks."""
    rng = np.random.default_rng(seed)
    halves = rng.integers(0, classes, (count, 2))
    masks = np.repeat(np.repeat(halves[:, None], side // 2, axis=2), side, axis=1)
    turned = rng.random(count) < 0.5
    masks[turned] = masks[turned].transpose(0, 2, 1)
    store = TileStore((count, classes, side, side))
    store.values[:] = np.eye(classes, dtype=np.float32)[masks].transpose(0, 3, 1, 2)
    store.values[:] += rng.normal(0, 0.1, store.values.shape)
    tags = np.stack([(halves == k).any(axis=1) for k in range(classes)], axis=1)
    return TaggedTiles(store, torch.from_numpy(tags.astype(np.int8)), 0.1), torch.from_numpy(masks.astype(np.int64))


def tiny_architecture(channels: int = 3, classes: int = 3, side: int = 8) -> Architecture:
    """A transformer of two blocks with two heads, and a spectral network."""
    vit = ViTConfig(channels, classes, side, side // 4, 16, (2, 2), 8, 32)
    return Architecture(channels, classes, side, vit, 8, "", {"vit": 0.5, "spectral": 0.5})


def tiny_model(channels: int = 2, classes: int = 3, side: int = SIDE) -> LandCoverModel:
    """An untrained model that is the same every time."""
    torch.manual_seed(0)
    return LandCoverModel(tiny_architecture(channels, classes, side)).eval()


def write_tiny_model(
    path: Path, scheme_json: str, bands: list[str], gsd: float = 10.0, kind: Any = "classifier"
) -> Path:
    """The untrained model as a file."""
    model = tiny_model(len(bands))
    card = ModelCard(kind, model.architecture, bands, gsd, scheme_json, 0.1, [[True, True]] * 2, "none")
    save_model(path, model, card)
    return path
