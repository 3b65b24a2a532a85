"""Tiles in memory-mapped storage: read once from the rasters, then drawn in any order."""

from __future__ import annotations

import copy
import math
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparsevit.errors import InputError
from sparsevit.geodata.scene import Scene, open_scene, open_scene_in_place
from sparsevit.geodata.tile_index import TileIndex, check_place, check_replaced, groups
from sparsevit.reporting import Reporter


class TileStore:
    """Raw tiles `[N, C, H, W]` on disk, NaN for nodata; the pages in use are the system's business, not the heap's.

    Attributes:
        values: The storage.
        positions: Which of its tiles the store has, in order.
    """

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        with tempfile.TemporaryFile() as file:  # without a name: it is gone when the last map of it is
            if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a signal at some later write
                os.posix_fallocate(file.fileno(), 0, max(math.prod(shape), 1) * np.dtype(np.float32).itemsize)
            self.values = np.memmap(file, dtype=np.float32, mode="w+", shape=shape)
        self.positions = torch.arange(shape[0])

    def __len__(self) -> int:
        return len(self.positions)

    def batch(self, positions: Tensor) -> Tensor:
        """Tiles `[B, C, H, W]` at positions `[B]`."""
        return torch.from_numpy(np.asarray(self.values[self.positions[positions].numpy()]))

    def choose(self, positions: Tensor) -> TileStore:
        """Only the tiles at positions, or of a mask, in the same storage."""
        part = copy.copy(self)
        part.positions = self.positions[positions]
        return part


@dataclass(frozen=True)
class TaggedTiles:
    """Tiles, their tags and their positions in the tile index.

    Attributes:
        store: Raw tiles.
        tags: `[N, K]`, 1 present, 0 absent, -1 unknown.
        presence_threshold: Share of a tile from which a class counts as present.
        threshold_known: Whether it is; otherwise it is where learning it from the tags begins.
    """

    store: TileStore
    tags: Tensor
    presence_threshold: float
    threshold_known: bool = True

    def __len__(self) -> int:
        return len(self.store)

    def choose(self, positions: Tensor) -> TaggedTiles:
        """Only the tiles at positions, or of a mask."""
        return replace(self, store=self.store.choose(positions), tags=self.tags[positions])

    def with_threshold(self, presence_threshold: float) -> TaggedTiles:
        """The same tiles, of which the presence threshold is known now."""
        return replace(self, presence_threshold=presence_threshold, threshold_known=True)


def load_tiles(
    index: TileIndex, bands: list[str], reporter: Reporter, scene_override: list[Path] | None = None
) -> TileStore:
    """Read the tiles of an index.

    Args:
        index: The tiles; all of one size.
        bands: Bands to read, in order.
        reporter: Progress.
        scene_override: Rasters to read instead of those that the index names.

    Raises:
        InputError: Tiles differ in size, or a raster lacks a band.
    """
    check_replaced(index, scene_override or [])
    sizes = index.frame[["height", "width"]].drop_duplicates().to_numpy()
    if len(sizes) != 1:
        raise InputError("The tiles of the index differ in size.", "tiles", "Make a new index with 'tiles'.")
    height, width = (int(v) for v in sizes[0])
    store = TileStore((len(index), len(bands), height, width))
    windows = index.windows()
    done = 0
    for paths, positions in groups(index):
        with open_tile_scene(index, paths, scene_override, bands) as scene:
            check_place(index, scene.grid, scene.paths[0])
            for i in positions:
                reporter.check()
                store.values[i] = scene.read(windows[i])[0]
                done += 1
                reporter.progress(done / len(index), "reading tiles")
    return store


def open_tile_scene(index: TileIndex, paths: list[Path], override: list[Path] | None, bands: list[str]) -> Scene:
    """Open rasters of an index, or those given instead, with the bands asked for."""
    names = index.band_names or None
    scene = open_scene_in_place(override, names) if override else open_scene(paths, names)
    return scene.select(bands, "The network", "scene" if override else "tiles")


def band_statistics(store: TileStore) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (at least 1e-6) of each band `[C]` over all valid pixels of the tiles.

    Raises:
        InputError: A band has no valid pixel.
    """
    total, squares, count = (np.zeros(store.values.shape[1]) for _ in range(3))
    for position in torch.arange(len(store)).split(1):
        tile = store.batch(position)[0].numpy()
        finite = np.isfinite(tile)
        values = np.where(finite, tile, 0).astype(np.float64)
        total += values.sum((1, 2))
        squares += (values**2).sum((1, 2))
        count += finite.sum((1, 2))
    if (count == 0).any():
        raise InputError("A band has no valid pixel in the training tiles.", "tiles", "Check the nodata value.")
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(np.maximum(std, 1e-6), dtype=torch.float32)
