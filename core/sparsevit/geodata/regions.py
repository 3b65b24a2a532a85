"""Regions of a class raster: connected pixels of one class, and how small ones join their largest neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rasterio.features import sieve
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from skimage import measure

from sparsevit.geodata.legend import NODATA
from sparsevit.reporting import Reporter

Classes = npt.NDArray[np.uint8]
"""Class codes `[height, width]`; 255 is nodata."""
ROWS = 256


@dataclass(frozen=True)
class Regions:
    """Connected pixels of one class.

    Attributes:
        labels: `[height, width]`, the number of each pixel's region from 1 on; 0 is nodata.
        codes: Class code of each region `[regions]`; that of region number i is at i - 1.
    """

    labels: npt.NDArray[np.int32]
    codes: Classes

    def __len__(self) -> int:
        return len(self.codes)


def find_regions(classes: Classes, connectivity: int) -> Regions:
    """Number the regions of a class raster.

    Args:
        classes: Class codes.
        connectivity: 4 if pixels are neighbours by their edges, 8 if by their corners too.
    """
    steps = 1 if connectivity == 4 else 2
    numbered = measure.label(classes, background=NODATA, connectivity=steps)  # type: ignore[no-untyped-call]
    labels = numbered.astype(np.int32)
    codes = np.full(int(labels.max(initial=0)) + 1, NODATA, np.uint8)
    codes[labels] = classes
    return Regions(labels, codes[1:])


def areas_of(regions: Regions, row_areas: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Area of each region `[regions]` in the unit of the area of a pixel of each row `[height]`."""
    total = np.zeros(len(regions) + 1)
    for top in range(0, len(regions.labels), ROWS):
        part = regions.labels[top : top + ROWS]
        total += np.bincount(part.ravel(), np.repeat(row_areas[top : top + ROWS], part.shape[1]), len(total))
    return total[1:]


def means_of(
    regions: Regions, read: Callable[[int, int], npt.NDArray[np.float64]], reporter: Reporter
) -> npt.NDArray[np.float64]:
    """Mean of a quantity over the pixels of each region `[regions]`; NaN where it is known of none.

    Args:
        regions: The regions.
        read: Gives the quantity from a first row up to a last one `[rows, width]`, NaN where it is not known.
        reporter: Progress.

    Raises:
        CancelledError: The user asked to stop.
    """
    height = len(regions.labels)
    total, pixels = np.zeros(len(regions) + 1), np.zeros(len(regions) + 1, np.int64)
    for top in range(0, height, ROWS):
        reporter.check()
        bottom = min(top + ROWS, height)
        values = read(top, bottom)
        known = np.isfinite(values)
        labels = regions.labels[top:bottom][known]
        total += np.bincount(labels, values[known], len(total))
        pixels += np.bincount(labels, minlength=len(total))
        reporter.progress(bottom / height)
    means = np.full(len(total), np.nan)
    np.divide(total, pixels, out=means, where=pixels > 0)
    return means[1:]


def merge_small(
    classes: Classes, row_areas: npt.NDArray[np.float64], minimum: float, connectivity: int, reporter: Reporter
) -> Classes:
    """Merge every region smaller than a minimum mapping unit into its largest neighbour.

    GDAL's sieve does most of it. It leaves regions that have only small ones around them; these join their largest
    neighbour round by round, until each region reaches the minimum or has nothing but nodata around it. What joins
    takes the class of the largest member. Nodata takes no part.

    Args:
        classes: Class codes.
        row_areas: Area of a pixel of each row `[height]` (m²); it differs between rows only in degrees.
        minimum: Minimum mapping unit (m²).
        connectivity: 4 or 8.
        reporter: Progress.

    Raises:
        CancelledError: The user asked to stop.
    """
    enough = minimum * (1 - 1e-9)  # a region of exactly the minimum stays
    pixels = min(math.ceil(enough / row_areas.max()), classes.size)
    if pixels > 1:
        classes = sieve(classes, pixels, mask=classes != NODATA, connectivity=connectivity)
    first = 0
    while True:
        reporter.check()
        regions = find_regions(classes, connectivity)
        areas = areas_of(regions, row_areas)
        into = _largest_neighbour(regions, areas, areas < enough, connectivity)
        joining = int((into >= 0).sum())
        first = first or joining
        if not joining:
            return classes
        reporter.progress(1 - joining / (first + 1))
        codes = np.append(_codes_when_joined(regions.codes, areas, into), np.uint8(NODATA))
        classes = codes[regions.labels - 1]  # nodata, label 0, reads the last one


def _largest_neighbour(
    regions: Regions, areas: npt.NDArray[np.float64], small: npt.NDArray[np.bool_], connectivity: int
) -> npt.NDArray[np.intp]:
    """Position of the largest neighbour of each small region `[regions]`; -1 for others and where there is none."""
    pairs = _touching(regions, connectivity)
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    pairs = pairs[small[pairs[:, 0]]]
    pairs = pairs[np.lexsort((-pairs[:, 1], areas[pairs[:, 1]], pairs[:, 0]))]
    into = np.full(len(regions), -1, np.intp)
    into[pairs[:, 0]] = pairs[:, 1]  # of several values for one place numpy keeps the last
    return into


def _touching(regions: Regions, connectivity: int) -> npt.NDArray[np.int64]:
    """The pairs of regions that touch `[pairs, 2]`, as positions, each pair once."""
    here = regions.labels
    views = [(here[:, :-1], here[:, 1:]), (here[:-1], here[1:])]
    if connectivity == 8:
        views += [(here[:-1, :-1], here[1:, 1:]), (here[:-1, 1:], here[1:, :-1])]
    size, found = len(regions) + 1, []
    for one, other in views:
        border = (one != other) & (one > 0) & (other > 0)
        a, b = one[border].astype(np.int64), other[border].astype(np.int64)
        found.append(np.unique(np.minimum(a, b) * size + np.maximum(a, b)))
    keys = np.unique(np.concatenate(found))
    return np.stack([keys // size, keys % size], axis=1) - 1


def _codes_when_joined(codes: Classes, areas: npt.NDArray[np.float64], into: npt.NDArray[np.intp]) -> Classes:
    """Class code of each region `[regions]` after each has joined another: that of the largest that meet."""
    joining = np.flatnonzero(into >= 0)
    links = coo_matrix((np.ones(len(joining), np.int8), (joining, into[joining])), shape=(len(codes), len(codes)))
    count, group = connected_components(links, directed=False)
    order = np.lexsort((-np.arange(len(codes)), areas, group))
    largest = np.empty(count, np.intp)
    largest[group[order]] = order
    joined: Classes = codes[largest[group]]
    return joined
