"""Tags from any categorical raster, coarse or fine: the share of a tile that each class covers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rasterio.windows import Window

from sparsevit.errors import InputError
from sparsevit.geodata.categorical import ReadCategories, categories_on, translate
from sparsevit.geodata.scene import Grid, open_scene
from sparsevit.geodata.tile_index import ABSENT, PRESENT, UNKNOWN, TileIndex, groups
from sparsevit.labels.fields import TagArray
from sparsevit.labels.vectors import TOLERANCE
from sparsevit.reporting import Reporter

UNMAPPED = -1
COUNTS = npt.NDArray[np.int64]


def raster_tags(counts: COUNTS, pixels: COUNTS, threshold: float, min_labelled: float) -> TagArray:
    """Tags from pixel counts: a class is present when its share of the *labelled* pixels reaches the threshold.

    A tile whose labelled pixels cover less than `min_labelled` of it, or none, stays unknown.

    Args:
        counts: Pixels of each class `[tiles, classes]`.
        pixels: All pixels of each tile `[tiles]`.
        threshold: Presence threshold, itself included (share of labelled pixels).
        min_labelled: Least labelled share of a tile.

    Returns:
        `[tiles, classes]`: 1 present, 0 absent, -1 unknown.
    """
    labelled = counts.sum(axis=1)
    present = counts >= (threshold - TOLERANCE) * labelled[:, None]
    known = (labelled > 0) & (labelled >= (min_labelled - TOLERANCE) * pixels)
    return np.where(known[:, None], np.where(present, PRESENT, ABSENT), UNKNOWN).astype(np.int8)


def count_classes(
    index: TileIndex, raster: Path | str, table: dict[int, int], classes: int, reporter: Reporter
) -> tuple[COUNTS, set[int]]:
    """Count the pixels of each class in each tile.

    Args:
        index: The tiles.
        raster: Categorical raster in any CRS and resolution, warped to the scene's grid by the nearest pixel; or, as
            text, the column of the index that names each patch's own raster.
        table: Position of the class by pixel value.
        classes: Number of classes.
        reporter: Progress.

    Returns:
        Counts `[tiles, classes]`, and the pixel values that the table does not have.

    Raises:
        InputError: A raster is missing or unreadable, has no CRS, or does not overlap the scene.
    """
    counts = np.zeros((len(index), classes), np.int64)
    unmapped: set[int] = set()
    windows = index.windows()
    for paths, members in groups(index):
        source = raster if isinstance(raster, Path) else _own_raster(index, raster, int(members[0]))
        grid = _grid_of(paths)
        with categories_on(source, grid, "raster") as read:
            for strip in _strips([windows[i] for i in members]):
                reporter.check()
                block = [windows[members[i]] for i in strip]
                counts[members[strip]], others = _count_strip(read, block, table, classes)
                unmapped |= others
        reporter.progress(float(members[-1] + 1) / len(index))
    return counts, unmapped


def _count_strip(
    read: ReadCategories, windows: list[Window], table: dict[int, int], classes: int
) -> tuple[COUNTS, set[int]]:
    """Counts `[tiles, classes]` of tiles that share their rows, by running sums along the columns."""
    left = min(w.col_off for w in windows)
    right = max(w.col_off + w.width for w in windows)
    values, valid = read(Window(left, windows[0].row_off, right - left, windows[0].height))
    position = translate(values, table, UNMAPPED)
    others = np.unique(values[valid & (position == UNMAPPED)])
    position[~valid] = UNMAPPED
    starts = np.array([w.col_off - left for w in windows], dtype=np.intp)
    stops = starts + np.array([w.width for w in windows], dtype=np.intp)
    counts = np.empty((len(windows), classes), np.int64)
    for c in range(classes):
        running = np.concatenate([[0], np.cumsum((position == c).sum(axis=0))])
        counts[:, c] = running[stops] - running[starts]
    return counts, {int(v) for v in others}


def _strips(windows: list[Window]) -> Iterator[npt.NDArray[np.intp]]:
    """Positions of the tiles that share their rows."""
    rows = np.array([(w.row_off, w.height) for w in windows])
    _, strip = np.unique(rows, axis=0, return_inverse=True)
    strip = strip.reshape(-1)
    for s in range(int(strip.max()) + 1):
        yield np.flatnonzero(strip == s)


def _grid_of(paths: list[Path]) -> Grid:
    with open_scene(paths[:1]) as scene:
        return scene.grid


def _own_raster(index: TileIndex, column: str, tile: int) -> Path:
    own = index.frame[column].iloc[tile] if column in index.frame else None
    if not isinstance(own, str) or not own:
        raise InputError(
            f"No raster with the tags was given, and the index names none in '{column}'.", "raster", "Give a raster."
        )
    return Path(own)
