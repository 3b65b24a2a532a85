"""Rasters out: tiled, compressed, with legend, nodata and overviews; whole or not at all."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree  # nosec B405: writes XML, never parses any
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling
from rasterio.errors import RasterioError, RasterioIOError
from rasterio.windows import Window

from sparsevit import __version__
from sparsevit.errors import ResourceError
from sparsevit.geodata.legend import NODATA, ClassScheme
from sparsevit.geodata.scene import GDAL_OPTIONS, Grid
from sparsevit.outputs import whole_file

SCHEME_TAG = "SPARSEVIT_SCHEME"
CAUTIONS_TAG = "SPARSEVIT_CAUTIONS"
"""What the tags behind the raster could not teach, a sentence a line."""
OVERVIEW_SMALLEST = 256


class RasterWriter:
    """Writes rows of a raster, or of a stripe of it, from top to bottom."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def write_rows(self, row: int, values: npt.NDArray[Any], col: int = 0) -> None:
        """Write `[height, width]` or `[bands, height, width]` at `row` from the top, `col` from the left (pixels)."""
        block = values if values.ndim == 3 else values[None]
        self._dataset.write(block, window=Window(col, row, block.shape[2], block.shape[1]))

    def describe(self, band: int, text: str) -> None:
        """Name a band (from 0) once its values are known."""
        self._dataset.set_band_description(band + 1, text)


@contextmanager
def class_raster(
    path: Path, grid: Grid, scheme: ClassScheme, provenance: dict[str, str], cog: bool = False
) -> Iterator[RasterWriter]:
    """Write a uint8 class raster with colour table, category names and nodata 255.

    Args:
        path: File to write (.tif).
        grid: Its pixel grid.
        scheme: Classes; their codes are the pixel values.
        provenance: Tags to store in the file (model, inputs, …).
        cog: Write a Cloud-Optimised GeoTIFF.

    Raises:
        ResourceError: The file cannot be written (disk full, permission).
    """
    profile = {"dtype": "uint8", "count": 1, "nodata": NODATA}
    with _raster(path, grid, profile, Resampling.mode, provenance | {SCHEME_TAG: scheme.to_json()}, cog) as (out, done):
        out.write_colormap(1, {c.code: (*c.rgb, 255) for c in scheme.classes})
        out.set_band_description(1, f"Land cover ({scheme.name})")
        yield RasterWriter(out)
        done.append(lambda written: _write_category_names(written, scheme))


@contextmanager
def float_raster(
    path: Path, grid: Grid, descriptions: list[str], provenance: dict[str, str], cog: bool = False
) -> Iterator[RasterWriter]:
    """Write a float32 raster with named bands and nodata NaN.

    Raises:
        ResourceError: The file cannot be written (disk full, permission).
    """
    profile = {"dtype": "float32", "count": len(descriptions), "nodata": float("nan"), "predictor": 3}
    with _raster(path, grid, profile, Resampling.average, provenance, cog) as (out, _):
        for i, text in enumerate(descriptions, start=1):
            out.set_band_description(i, text)
        yield RasterWriter(out)


@contextmanager
def _raster(
    path: Path, grid: Grid, profile: dict[str, Any], resampling: Resampling, tags: dict[str, str], cog: bool
) -> Iterator[tuple[Any, list[Any]]]:
    layout = {"driver": "GTiff", "tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
    where = {"crs": grid.crs, "transform": grid.transform, "width": grid.width, "height": grid.height}
    finishers: list[Any] = []
    try:
        with rasterio.Env(**GDAL_OPTIONS), whole_file(path) as partial:
            with rasterio.open(partial, "w", **layout, **where, **profile, bigtiff="if_safer") as out:
                out.update_tags(SPARSEVIT_ENGINE=__version__, AREA_OR_POINT="Area", **tags)
                yield out, finishers
            with rasterio.open(partial):  # a fragment is an error here, but not where it is opened to be changed
                pass
            factors = [2**k for k in range(1, 12) if min(grid.width, grid.height) / 2**k >= OVERVIEW_SMALLEST / 2]
            if cog:
                _to_cog(partial, profile, resampling)
            elif factors:
                with rasterio.open(partial, "r+") as out:
                    out.build_overviews(factors, resampling)
            _check_whole(partial, [] if cog else factors)
            for finish in finishers:
                finish(partial)
    except (RasterioError, CPLE_BaseError, OSError) as err:
        raise ResourceError(
            f"{path} cannot be written ({err}).", "output", "Check free disk space and permissions."
        ) from err


def _check_whole(path: Path, factors: list[int]) -> None:
    """Read a raster again, overviews included: what does not fit on a disk is not reported when it is written.

    Raises:
        RasterioError: A block, or an overview of `factors`, is missing.
    """
    with rasterio.open(path) as src:
        found = src.overviews(1)
    if factors and found != factors:
        raise RasterioIOError("overviews are missing")
    for level in range(-1, len(found)):
        with rasterio.open(path, **({"overview_level": level} if level >= 0 else {})) as src:
            for _, window in src.block_windows(1):
                src.read(window=window)


def _to_cog(partial: Path, profile: dict[str, Any], resampling: Resampling) -> None:
    copy = partial.with_name(partial.name + ".cog")
    options = {"compress": "deflate", "overview_resampling": resampling.name, "bigtiff": "if_safer"}
    try:
        rasterio.shutil.copy(partial, copy, driver="COG", **options)
    except SystemError as err:  # how rasterio says that GDAL gave no reason
        raise RasterioIOError("the disk may be full") from err
    copy.replace(partial)


def _write_category_names(path: Path, scheme: ClassScheme) -> None:
    """Write GDAL's side file with category names; QGIS shows them as the legend's labels."""
    names = {c.code: c.name for c in scheme.classes}
    root = ElementTree.Element("PAMDataset")
    categories = ElementTree.SubElement(ElementTree.SubElement(root, "PAMRasterBand", band="1"), "CategoryNames")
    for code in range(max(names) + 1):
        ElementTree.SubElement(categories, "Category").text = names.get(code, "")
    ElementTree.ElementTree(root).write(path.with_name(path.name + ".aux.xml"), encoding="unicode")


def share_by_class(counts: npt.NDArray[np.int64], scheme: ClassScheme) -> dict[str, float]:
    """Turn pixel counts `[256]` by code into shares of the labelled area by class name."""
    total = max(int(sum(counts[c] for c in scheme.codes)), 1)
    return {c.name: float(counts[c.code]) / total for c in scheme.classes}
