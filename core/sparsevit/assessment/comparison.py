"""A map beside its reference: which class each says, row by row, on the map's grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import geopandas
import numpy as np
import numpy.typing as npt
import shapely
from rasterio.features import rasterize
from rasterio.windows import Window

from sparsevit.assessment.accuracy import IntMatrix, count_pairs
from sparsevit.geodata.categorical import categories_on, translate
from sparsevit.geodata.layers import POINTS
from sparsevit.geodata.scene import Grid
from sparsevit.reporting import Reporter

Positions = npt.NDArray[np.int16]
NOTHING, FOREIGN = -1, -2
"""Nothing is known of a pixel; or its value stands for no class of the scheme."""
ROWS = 256


@dataclass(frozen=True)
class Sample:
    """What is known in a window.

    Attributes:
        pixels: Positions in the flattened window `[n]`; a pixel may occur more than once (points).
        classes: Class positions `[n]`; `FOREIGN` for values that are no class.
        values: The raw values `[n]` behind them.
    """

    pixels: npt.NDArray[np.intp]
    classes: Positions
    values: npt.NDArray[np.int32]


ReadSample = Callable[[Window], Sample]


@dataclass
class Comparison:
    """Counts over the whole map.

    Attributes:
        confusion: Pixels `[map class, reference class]` where both are known.
        mapped: Pixels of each class over the whole map `[classes]`.
        foreign_map: Pixels by value of the map that are no class of the scheme.
        foreign_reference: The same for the reference.
    """

    confusion: IntMatrix
    mapped: npt.NDArray[np.int64]
    foreign_map: dict[int, int] = field(default_factory=dict)
    foreign_reference: dict[int, int] = field(default_factory=dict)


@contextmanager
def sample_raster(path: Path, grid: Grid, table: dict[int, int], parameter: str) -> Iterator[ReadSample]:
    """Read a categorical raster on a grid; `table` gives the class position of each value.

    Raises:
        InputError: See `categories_on`.
    """
    with categories_on(path, grid, parameter, "the map") as read:

        def sample(window: Window) -> Sample:
            values, valid = read(window)
            pixels = np.flatnonzero(valid)
            known = values.ravel()[pixels]
            return Sample(pixels, translate(known, table, FOREIGN), known)

        yield sample


def sample_layer(layer: geopandas.GeoDataFrame, classes: npt.NDArray[np.int16], grid: Grid) -> ReadSample:
    """Read polygons (a pixel belongs to the polygon over its centre) or points (each counts once) on a grid.

    Args:
        layer: Polygons or points in the CRS of the grid.
        classes: Class position of each feature; negative ones are not used.
        grid: The grid.
    """
    geometries, classes = layer.geometry.to_numpy()[classes >= 0], classes[classes >= 0]
    if layer.geom_type.isin(POINTS).all():
        points, owner = shapely.get_coordinates(geometries, return_index=True)
        cols, rows = (np.floor(v).astype(np.intp) for v in ~grid.transform * (points[:, 0], points[:, 1]))
        return lambda window: _points_in(window, rows, cols, classes[owner])
    tree = shapely.STRtree(geometries)

    def burn(window: Window) -> Sample:
        part = grid.crop(window)
        near = np.sort(tree.query(shapely.box(*part.bounds)))
        values = np.full((part.height, part.width), NOTHING, np.int16)
        if len(near):
            shapes = list(zip(geometries[near], classes[near].tolist(), strict=True))
            values = rasterize(shapes, out=values, transform=part.transform)
        pixels = np.flatnonzero(values >= 0)
        found = values.ravel()[pixels]
        return Sample(pixels, found, found.astype(np.int32))

    return burn


def _points_in(window: Window, rows: npt.NDArray[np.intp], cols: npt.NDArray[np.intp], classes: Positions) -> Sample:
    row, col = rows - window.row_off, cols - window.col_off
    inside = (row >= 0) & (row < window.height) & (col >= 0) & (col < window.width)
    found = classes[inside]
    return Sample(row[inside] * window.width + col[inside], found, found.astype(np.int32))


def compare(
    mapped: ReadSample, reference: ReadSample, area: ReadSample | None, grid: Grid, classes: int, reporter: Reporter
) -> Comparison:
    """Count map class against reference class over the whole map.

    Args:
        mapped: Reads the map.
        reference: Reads the reference.
        area: Reads the part of the map to compare in (any class); everywhere if none.
        grid: The map's grid.
        classes: Number of classes.
        reporter: Progress.
    """
    result = Comparison(np.zeros((classes, classes), np.int64), np.zeros(classes, np.int64))
    for top in range(0, grid.height, ROWS):
        reporter.check()
        window = Window(0, top, grid.width, min(ROWS, grid.height - top))
        here, there = mapped(window), reference(window)
        result.mapped += np.bincount(here.classes[here.classes >= 0], minlength=classes)
        band = np.full(int(window.height) * grid.width, NOTHING, np.int16)
        band[here.pixels] = here.classes
        if area is not None:
            inside = np.zeros(len(band), bool)
            inside[area(window).pixels] = True
            band[~inside] = NOTHING
        against = band[there.pixels]
        seen = against != NOTHING
        values = np.zeros(len(band), np.int32)
        values[here.pixels] = here.values
        _count_values(result.foreign_map, Sample(there.pixels, against, values[there.pixels]))
        _count_values(result.foreign_reference, Sample(there.pixels[seen], there.classes[seen], there.values[seen]))
        result.confusion += count_pairs(against, there.classes, classes)
        reporter.progress((top + ROWS) / grid.height, "comparing")
    return result


def _count_values(counts: dict[int, int], sample: Sample) -> None:
    values, pixels = np.unique(sample.values[sample.classes == FOREIGN], return_counts=True)
    for value, number in zip(values.tolist(), pixels.tolist(), strict=True):
        counts[value] = counts.get(value, 0) + number
