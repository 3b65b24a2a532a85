"""Turn a land-cover map into polygons."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import geopandas
import numpy as np
import numpy.typing as npt
from pydantic import Field
from rasterio.errors import RasterioError
from rasterio.windows import Window

from sparsevit.errors import InputError
from sparsevit.geodata.categorical import check_single_band, read_classes, scheme_of
from sparsevit.geodata.class_layer import CODE_FIELD, write_class_layer
from sparsevit.geodata.legend import ClassScheme
from sparsevit.geodata.polygons import areas_m2, outline, row_areas_m2, simplify
from sparsevit.geodata.regions import Regions, find_regions, means_of, merge_small
from sparsevit.geodata.scene import Grid, open_raster
from sparsevit.jobs.base import Job, Request, Result, absolute
from sparsevit.outputs import check_distinct, check_writable
from sparsevit.reporting import Reporter


class VectorizeRequest(Request):
    """Turn a land-cover map into polygons with class, area and mean confidence."""

    map: Path = Field(description="Land-cover raster, or any raster of class codes.")
    confidence: Path | None = Field(
        default=None, description="Confidence raster on the grid of the map; its mean goes to each polygon."
    )
    scheme: Path | None = Field(default=None, description="Class scheme; the legend inside the map if left out.")
    minimum_mapping_unit_m2: float = Field(
        default=0.0, ge=0, description="Regions smaller than this join their largest neighbour (m²); 0 keeps all."
    )
    connectivity: Literal["4", "8"] = Field(
        default="4", description="Pixels of a region hold together by their edges (4) or by their corners too (8)."
    )
    simplify_m: float = Field(
        default=0.0,
        ge=0,
        description="Tolerance of the simplification of borders between polygons (m); 0 keeps the edges of pixels.",
    )
    output: Path = Field(description="Polygon layer to write (.gpkg).")


class VectorizeResult(Result):
    """The polygons in numbers."""

    output: str
    polygons: int
    merged: int
    area_ha: float
    class_areas_ha: dict[str, float]


def run(request: VectorizeRequest, reporter: Reporter) -> VectorizeResult:
    """Turn a land-cover map into polygons. The map is held in memory (about 50 bytes per pixel).

    Raises:
        InputError: The map is no class raster of the scheme, or the confidence is on another grid.
        ResourceError: The output cannot be written.
        CancelledError: The user asked to stop.
    """
    check_writable(request.output, (".gpkg",))
    check_distinct({"output": request.output}, [request.map, request.confidence])
    connectivity = int(request.connectivity)
    with open_raster(request.map, "map") as src:
        grid = _grid(src, request.map)
        if request.confidence is not None:
            _check_confidence(request.confidence, grid, request.map)
        scheme = scheme_of(src.tags(), request.map, request.scheme)
        classes = read_classes(src, request.map, scheme, reporter.part(0, 0.1, "reading"))
    regions = find_regions(classes, connectivity)
    before = len(regions)
    if request.minimum_mapping_unit_m2 > 0:
        unit, part = request.minimum_mapping_unit_m2, reporter.part(0.1, 0.3, "merging small regions")
        regions = find_regions(merge_small(classes, row_areas_m2(grid), unit, connectivity, part), connectivity)
    confidence = _mean_confidence(request.confidence, regions, reporter.part(0.3, 0.4, "reading the confidence"))
    polygons = outline(regions, grid.transform, connectivity == 8, reporter.part(0.4, 0.7, "outlining"))
    if request.simplify_m > 0:
        reporter.progress(0.7, "simplifying")
        polygons = simplify(polygons, grid, request.simplify_m)
    reporter.check()
    reporter.progress(0.85, "writing")
    columns = _columns(regions, scheme, areas_m2(polygons, grid.crs), confidence)
    write_class_layer(geopandas.GeoDataFrame(columns, geometry=polygons, crs=grid.crs.to_wkt()), scheme, request.output)
    reporter.progress(1.0, "polygons written")
    return _result(request, columns, scheme, before)


def _grid(src: Any, path: Path) -> Grid:
    check_single_band(src, path, "map", "class raster")
    if src.crs is None:
        raise InputError(f"{path} has no coordinate reference system.", "map", "Assign one (QGIS: Assign Projection).")
    if not (src.crs.is_projected or src.crs.is_geographic):
        raise InputError(
            f"The CRS of {path} is neither projected nor geographic.", "map", "Reproject the map (QGIS: Warp)."
        )
    return Grid(src.crs, src.transform, src.width, src.height)


def _check_confidence(path: Path, grid: Grid, map_path: Path) -> None:
    """Refuse a confidence raster that is not on the grid of the map, before any work starts."""
    with open_raster(path, "confidence") as src:
        check_single_band(src, path, "confidence", "confidence raster")
        corners = [(0, 0), (grid.width, 0), (0, grid.height)]
        here, there = ([transform * corner for corner in corners] for transform in (grid.transform, src.transform))
        tolerance = 1e-3 * abs(grid.transform.determinant) ** 0.5
        same_place = src.crs == grid.crs and np.allclose(here, there, rtol=0, atol=tolerance)
        if not same_place or src.shape != (grid.height, grid.width):
            raise InputError(
                f"{path} is not on the pixel grid of {map_path.name}.",
                "confidence",
                "Give the confidence raster that was written with the map, or leave it out.",
            )


def _mean_confidence(path: Path | None, regions: Regions, reporter: Reporter) -> npt.NDArray[np.float64]:
    """Mean of the known confidence in each region `[regions]`; NaN where nothing is known."""
    if path is None:
        return np.full(len(regions), np.nan)
    with open_raster(path, "confidence") as src:

        def read(top: int, bottom: int) -> npt.NDArray[np.float64]:
            window = Window(0, top, src.width, bottom - top)
            try:
                values, valid = src.read(1, window=window), src.read_masks(1, window=window) > 0
            except RasterioError as err:
                raise InputError(f"{path} cannot be read ({err}).", "confidence", "The file may be damaged.") from err
            known: npt.NDArray[np.float64] = np.where(valid, values.astype(float), np.nan)
            return known

        return means_of(regions, read, reporter)


def _columns(
    regions: Regions, scheme: ClassScheme, areas: npt.NDArray[np.float64], confidence: npt.NDArray[np.float64]
) -> dict[str, npt.NDArray[Any]]:
    names = np.full(256, "", object)
    names[scheme.codes] = scheme.names
    codes = regions.codes.astype(np.int32)
    return {CODE_FIELD: codes, "class": names[codes], "area_m2": areas, "confidence": confidence}


def _result(
    request: VectorizeRequest, columns: dict[str, npt.NDArray[Any]], scheme: ClassScheme, before: int
) -> VectorizeResult:
    hectares = np.bincount(columns[CODE_FIELD], weights=columns["area_m2"], minlength=256) / 10_000
    return VectorizeResult(
        output=absolute(request.output),
        polygons=len(columns[CODE_FIELD]),
        merged=before - len(columns[CODE_FIELD]),
        area_ha=float(hectares.sum()),
        class_areas_ha={c.name: float(hectares[c.code]) for c in scheme.classes},
    )


JOB = Job("vectorize", VectorizeRequest, run)
