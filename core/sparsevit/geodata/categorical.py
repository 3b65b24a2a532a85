"""Categorical rasters, such as land-cover maps, read on the pixel grid of something else or on their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from sparsevit.errors import InputError
from sparsevit.geodata.legend import NODATA, ClassScheme, load_scheme, parse_scheme
from sparsevit.geodata.scene import GDAL_OPTIONS, BoolArray, Grid, check_overlap, open_raster
from sparsevit.geodata.writer import SCHEME_TAG
from sparsevit.reporting import Reporter

IntArray = npt.NDArray[np.int32]
ReadCategories = Callable[[Window], tuple[IntArray, BoolArray]]
"""Reads a window of the grid: values `[height, width]`, and where they are known."""
ROWS = 256
MOST_FOREIGN = 256
"""With so many values that are no class a raster is no class raster."""


@contextmanager
def categories_on(path: Path, grid: Grid, parameter: str, other: str = "the scene") -> Iterator[ReadCategories]:
    """Open a categorical raster of any CRS and resolution on a grid, by the nearest pixel.

    Args:
        path: Raster; its first band holds the categories.
        grid: Grid to read on.
        parameter: Job field that an error names.
        other: What the grid belongs to, for an error.

    Raises:
        InputError: The raster is missing or unreadable, has no CRS, or does not overlap the grid.
    """
    with open_raster(path, parameter) as src:
        if src.crs is None:
            raise InputError(
                f"{path} has no coordinate reference system.", parameter, "Assign one (QGIS: Assign Projection)."
            )
        check_overlap(grid, src, other, parameter)
        unmarked = src.nodata is None and MaskFlags.alpha not in src.mask_flag_enums[0]
        where = {"crs": grid.crs, "transform": grid.transform, "width": grid.width, "height": grid.height}
        options = {"resampling": Resampling.nearest, "add_alpha": unmarked}
        with rasterio.Env(**GDAL_OPTIONS), WarpedVRT(src, **where, **options) as vrt:

            def read(window: Window) -> tuple[IntArray, BoolArray]:
                try:
                    values, valid = vrt.read(1, window=window), vrt.read_masks(1, window=window) > 0
                except RasterioError as err:
                    raise InputError(f"{path} cannot be read ({err}).", parameter, "The file may be damaged.") from err
                if values.dtype.kind == "f":
                    valid &= np.isfinite(values)
                    values = np.rint(np.where(valid, values, 0))
                return values.astype(np.int32), valid

            yield read


def translate(values: IntArray, table: dict[int, int], missing: int) -> npt.NDArray[np.int16]:
    """Look every value up in a table; `missing` where it has no entry. Any shape."""
    keys = np.array(sorted(table), dtype=np.int32)
    targets = np.array([table[int(k)] for k in keys], dtype=np.int16)
    if not len(keys):
        return np.full(values.shape, missing, np.int16)
    position = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    return np.where(keys[position] == values, targets[position], np.int16(missing))


def scheme_of(tags: dict[str, str], path: Path, given: Path | None) -> ClassScheme:
    """The class scheme of a raster: the one given, or else the legend in its tags.

    Raises:
        InputError: There is neither, or it is not a valid scheme.
    """
    if given is not None:
        return load_scheme(given)
    if SCHEME_TAG not in tags:
        raise InputError(f"{path} carries no legend.", "scheme", "Give the class scheme of the map.")
    return parse_scheme(tags[SCHEME_TAG], str(path))


def check_single_band(src: Any, path: Path, parameter: str, kind: str) -> None:
    """Refuse a raster of several bands; an alpha band does not count.

    Args:
        src: The open raster.
        path: Its file.
        parameter: Job field that an error names.
        kind: What it should be: "class raster", "confidence raster".

    Raises:
        InputError: It has another number of bands, or complex numbers.
    """
    bands = src.count - list(src.colorinterp).count(ColorInterp.alpha)
    if bands != 1 or src.dtypes[0].startswith("complex"):
        what = f"{bands} bands" if bands != 1 else "complex numbers"
        raise InputError(f"{path} is no {kind}: it has {what}.", parameter, "Give a raster with one band of numbers.")


def read_classes(src: Any, path: Path, scheme: ClassScheme, reporter: Reporter) -> npt.NDArray[np.uint8]:
    """Read a whole class raster on its own grid.

    Args:
        src: The open raster; its first band holds class codes.
        path: Its file.
        scheme: Its classes.
        reporter: Progress.

    Returns:
        Class codes `[height, width]`, 255 where there is none.

    Raises:
        InputError: It has values that are no class of the scheme, no class at all, or cannot be read.
        CancelledError: The user asked to stop.
    """
    classes = np.full(src.shape, NODATA, np.uint8)
    foreign: set[float] = set()
    for top in range(0, src.height, ROWS):
        reporter.check()
        window = Window(0, top, src.width, min(ROWS, src.height - top))
        try:
            values, valid = src.read(1, window=window), src.read_masks(1, window=window) > 0
        except RasterioError as err:
            raise InputError(f"{path} cannot be read ({err}).", "map", "The file may be damaged.") from err
        valid &= np.isfinite(values)
        known = valid & np.isin(values, scheme.codes)
        classes[top : top + ROWS][known] = values[known]
        foreign.update(np.unique(values[valid & ~known]).tolist())
        if len(foreign) > MOST_FOREIGN:
            break
        reporter.progress((top + ROWS) / src.height)
    _check_foreign(foreign, path, scheme)
    if (classes == NODATA).all():
        raise InputError(f"{path} has no pixel with a class, only nodata.", "map", "Check its nodata value.")
    return classes


def _check_foreign(foreign: set[float], path: Path, scheme: ClassScheme) -> None:
    fraction = next((v for v in foreign if v != int(v)), None)
    if fraction is not None or len(foreign) > MOST_FOREIGN:
        what = f"fractions such as {fraction:g}" if fraction is not None else f"over {MOST_FOREIGN} other values"
        raise InputError(
            f"{path} is no class raster of the scheme '{scheme.name}': it has {what}.",
            "map",
            "Give a raster of class codes, such as a land-cover map.",
        )
    if foreign:
        listed = ", ".join(f"{v:g}" for v in sorted(foreign)[:10]) + ", …" * (len(foreign) > 10)
        raise InputError(
            f"{path} has values that the class scheme '{scheme.name}' lacks: {listed}.",
            "scheme",
            "Give the scheme of this map, or declare the value as nodata (QGIS: Translate).",
        )
