"""Regions of a class raster as polygons that neither overlap nor leave gaps, and their areas."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely
from rasterio.crs import CRS
from rasterio.features import shapes
from rasterio.transform import Affine

from sparsevit.geodata.regions import Regions
from sparsevit.geodata.scene import BoolArray, Grid
from sparsevit.reporting import Reporter

Geometries = npt.NDArray[np.object_]
BATCH = 2_000
"""Polygons that are made at a time."""


def outline(regions: Regions, transform: Affine, multipart: bool, reporter: Reporter) -> Geometries:
    """Draw the polygon of each region along the edges of its pixels.

    Neighbours share every vertex of their common border, so that the polygons are a coverage
    (`shapely.coverage_is_valid`).

    Args:
        regions: The regions.
        transform: From pixels to coordinates.
        multipart: Regions hold together by corners, and become multipolygons; else each is one polygon.
        reporter: Progress.

    Returns:
        One geometry per region `[regions]`, in their order.

    Raises:
        CancelledError: The user asked to stop.
    """
    # A region of 8-connected pixels would be one ring that touches itself, which is no valid polygon: always 4 here.
    found = shapes(regions.labels, mask=regions.labels > 0, connectivity=4)
    corners = _corners(regions.labels)
    parts: list[Geometries] = []
    owners: list[int] = []
    for batch in _batches(found):
        reporter.check()
        parts.append(_polygons([shape["coordinates"] for shape, _ in batch], corners, transform))
        owners += [int(number) - 1 for _, number in batch]
        reporter.progress(min(len(owners) / len(regions), 1))
    order = np.argsort(owners, kind="stable")
    polygons: Geometries = np.concatenate(parts)[order]
    if not multipart:
        return polygons
    return np.asarray(shapely.multipolygons(polygons, indices=np.array(owners)[order]))


def _batches(found: Iterator[Any]) -> Iterator[list[Any]]:
    while batch := list(islice(found, BATCH)):
        yield batch


def _corners(labels: npt.NDArray[np.int32]) -> BoolArray:
    """Corners of pixels `[height + 1, width + 1]` at which a border turns or several borders meet."""
    padded = np.pad(labels, 1)
    above, below = (padded[:-1, :-1], padded[:-1, 1:]), (padded[1:, :-1], padded[1:, 1:])
    upright = (above[0] == below[0]) & (above[1] == below[1])
    level = (above[0] == above[1]) & (below[0] == below[1])
    corners: BoolArray = ~(upright | level)
    return corners


def _polygons(rings_of: list[list[list[tuple[float, float]]]], corners: BoolArray, transform: Affine) -> Geometries:
    """Make polygons whose vertices are all the corners that lie on their borders, and no other points.

    Args:
        rings_of: Closed rings of each polygon, in whole pixels (column, row).
        corners: See `_corners`.
        transform: From pixels to coordinates.
    """
    rings = list(chain.from_iterable(rings_of))
    points = np.array(list(chain.from_iterable(rings)), np.int32)  # [points, 2]
    lengths = np.array([len(ring) for ring in rings])
    starts = np.ones(len(points), bool)
    starts[np.cumsum(lengths) - 1] = False  # no edge starts at the end of a ring
    steps = (np.roll(points, -1, axis=0) - points)[starts]
    pixels = np.abs(steps).sum(axis=1)  # an edge runs along a row or a column
    along = np.arange(pixels.sum(), dtype=np.int32) - np.repeat((np.cumsum(pixels) - pixels).astype(np.int32), pixels)
    points = np.repeat(points[starts], pixels, axis=0) + along[:, None] * np.repeat(np.sign(steps), pixels, axis=0)
    ring = np.repeat(np.repeat(np.arange(len(rings)), lengths - 1), pixels)
    keep = corners[points[:, 1], points[:, 0]]
    points, kept = points[keep], np.bincount(ring[keep], minlength=len(rings))
    ends = np.cumsum(kept)
    closed = np.insert(points, ends, points[ends - kept], axis=0).astype(float)
    coordinates = np.stack(transform * (closed[:, 0], closed[:, 1]), axis=1)
    offsets = (np.append(0, np.cumsum(kept + 1)), np.cumsum([0, *map(len, rings_of)]))
    made: Geometries = shapely.from_ragged_array(shapely.GeometryType.POLYGON, coordinates, offsets)
    return made


def simplify(polygons: Geometries, grid: Grid, tolerance_m: float) -> Geometries:
    """Simplify the borders between polygons of a coverage; it stays free of gaps and overlaps.

    The border to nodata and the rim of the raster stay as they are (Visvalingam and Whyatt 1993: corners that span
    a triangle smaller than the square of the tolerance go first).

    Args:
        polygons: A coverage.
        grid: Its grid.
        tolerance_m: Side of the square that has the area of the largest triangle to drop (m).
    """
    metres = math.sqrt(row_areas_m2(grid)[grid.height // 2] / abs(grid.transform.determinant))
    simplified: Geometries = shapely.coverage_simplify(polygons, tolerance_m / metres, simplify_boundary=False)
    return simplified


def areas_m2(polygons: Geometries, crs: CRS) -> npt.NDArray[np.float64]:
    """Areas of polygons (m²): in the plane of a projected CRS, on the ellipsoid if the CRS is in degrees.

    The ellipsoid is unrolled to the cylinder of equal area, where meridians and parallels, the edges of pixels, are
    straight: so the areas of polygons sum to those of their pixels.

    Args:
        polygons: Polygons `[n]` in the CRS.
        crs: A projected or geographic CRS.
    """
    if crs.is_projected:
        areas: npt.NDArray[np.float64] = shapely.area(polygons) * crs.linear_units_factor[1] ** 2
        return areas
    system = pyproj.CRS.from_wkt(crs.to_wkt())
    ellipsoid, degrees = system.ellipsoid, math.degrees(system.axis_info[0].unit_conversion_factor)
    assert ellipsoid is not None
    axes = {"a": ellipsoid.semi_major_metre, "b": ellipsoid.semi_minor_metre}
    cylinder = pyproj.Proj({"proj": "cea", "over": True, **axes})  # over: longitudes past 180° go on

    def unroll(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        x, y = cylinder(points[:, 0] * degrees, np.clip(points[:, 1] * degrees, -90, 90))
        return np.stack([x, y], axis=1)

    areas = shapely.area(shapely.transform(polygons, unroll))
    return areas


def row_areas_m2(grid: Grid) -> npt.NDArray[np.float64]:
    """Area of the first pixel of each row `[height]` (m²); in degrees it shrinks towards the poles."""
    rows = np.arange(grid.height, dtype=float)
    pixels = shapely.box(np.zeros_like(rows), rows, np.ones_like(rows), rows + 1)

    def place(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.stack(grid.transform * (points[:, 0], points[:, 1]), axis=1)

    return areas_m2(shapely.transform(pixels, place), grid.crs)
