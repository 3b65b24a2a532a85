"""Tags from polygons or points that carry a class."""

from __future__ import annotations

import geopandas
import numpy as np
import numpy.typing as npt
import shapely

from sparsevit.geodata.tile_index import ABSENT, PRESENT, UNKNOWN
from sparsevit.labels.fields import TagArray

TOLERANCE = 1e-9
"""A share that equals the threshold counts as reaching it, whatever the rounding."""


def polygon_tags(
    tiles: geopandas.GeoDataFrame,
    layer: geopandas.GeoDataFrame,
    classes: npt.NDArray[np.intp],
    count: int,
    threshold: float,
    complete: bool,
) -> TagArray:
    """Tags from polygons: a class is present where it covers at least `threshold` of the tile's area.

    Args:
        tiles: Footprints.
        layer: Polygons in the same CRS; overlaps of one class count once.
        classes: Position of each polygon's class `[polygons]`; -1 leaves its area uncovered.
        count: Number of classes.
        threshold: Presence threshold (share of the tile's area).
        complete: Where a class is present, all others are absent. If not, a class is absent only where it
            provably is: its share and the uncovered share together stay below the threshold.

    Returns:
        `[tiles, classes]`: 1 present, 0 absent, -1 unknown.
    """
    footprints = tiles.geometry.to_numpy()
    kept = classes >= 0
    polygons, classes = shapely.make_valid(layer.geometry.to_numpy()[kept]), classes[kept]
    tile, polygon = shapely.STRtree(polygons).query(footprints, predicate="intersects")
    pieces = shapely.intersection(footprints[tile], polygons[polygon])
    area = shapely.area(footprints)
    shares = _union_area(pieces, tile * count + classes[polygon], len(tiles) * count).reshape(-1, count) / area[:, None]
    uncovered = 1 - _union_area(pieces, tile, len(tiles)) / area
    present = shares >= threshold - TOLERANCE
    if complete:
        absent = present.any(axis=1, keepdims=True) & ~present
    else:
        absent = shares + uncovered[:, None] < threshold - TOLERANCE
    return _tags(present, absent)


def point_tags(
    tiles: geopandas.GeoDataFrame,
    layer: geopandas.GeoDataFrame,
    classes: npt.NDArray[np.intp],
    count: int,
    complete: bool,
) -> TagArray:
    """Tags from points: a class is present where one of its points lies.

    Args:
        tiles: Footprints.
        layer: Points in the same CRS.
        classes: Position of each point's class `[points]`; -1 is not used.
        count: Number of classes.
        complete: Where a class is present, all others are absent; if not, they are unknown.

    Returns:
        `[tiles, classes]`: 1 present, 0 absent, -1 unknown.
    """
    tile, point = shapely.STRtree(layer.geometry.to_numpy()).query(tiles.geometry.to_numpy(), predicate="intersects")
    present = np.zeros((len(tiles), count), bool)
    used = classes[point] >= 0
    present[tile[used], classes[point[used]]] = True
    absent = present.any(axis=1, keepdims=True) & ~present & complete
    return _tags(present, absent)


def _union_area(pieces: npt.NDArray[np.object_], group: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.float64]:
    """Area of the union of the pieces of each group `[count]`."""
    areas: npt.NDArray[np.float64] = np.bincount(group, weights=shapely.area(pieces), minlength=count).astype(float)
    members = np.bincount(group, minlength=count)
    order = np.argsort(group, kind="stable")
    starts = np.concatenate([[0], np.cumsum(members)])
    for g in np.flatnonzero(members > 1):
        areas[g] = shapely.union_all(pieces[order[starts[g] : starts[g + 1]]]).area
    return areas


def _tags(present: npt.NDArray[np.bool_], absent: npt.NDArray[np.bool_]) -> TagArray:
    return np.select([present, absent], [PRESENT, ABSENT], UNKNOWN).astype(np.int8)
