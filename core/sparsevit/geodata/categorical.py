"""Categorical rasters, such as land-cover maps, read on the pixel grid of something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from sparsevit.errors import InputError
from sparsevit.geodata.scene import GDAL_OPTIONS, BoolArray, Grid, check_overlap, open_raster

IntArray = npt.NDArray[np.int32]
ReadCategories = Callable[[Window], tuple[IntArray, BoolArray]]
"""Reads a window of the grid: values `[height, width]`, and where they are known."""


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
