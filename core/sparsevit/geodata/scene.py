"""A scene: any list of rasters seen as one stack of named bands on one grid, read window by window."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import CRSError, RasterioError, RasterioIOError
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window
from rasterio.windows import transform as window_transform

from sparsevit.errors import InputError

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

RADAR_BANDS = {"VV", "VH", "HH", "HV"}
GDAL_OPTIONS = {"GDAL_CACHEMAX": 32 * 2**20, "GDAL_NUM_THREADS": 2, "GDAL_OVR_CHUNK_MAX_SIZE": 4 * 2**20}
"""A bounded block cache, and overviews in small chunks, keep memory independent of the raster's size (bytes)."""


@dataclass(frozen=True)
class Band:
    """One band of a scene: its name, and where it comes from (`index` counts from 1)."""

    name: str
    path: Path
    index: int


@dataclass(frozen=True)
class Grid:
    """The pixel grid of a raster."""

    crs: CRS
    transform: Affine
    width: int
    height: int

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """xmin, ymin, xmax, ymax of the grid's corners."""
        corners = [self.transform * c for c in ((0, 0), (self.width, 0), (0, self.height), (self.width, self.height))]
        xs, ys = zip(*corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    @property
    def gsd(self) -> float:
        """Ground sampling distance (m), the mean of both axes."""
        t = self.transform
        return float((np.hypot(t.a, t.d) + np.hypot(t.b, t.e)) / 2 * self.crs.linear_units_factor[1])

    def window(self, bounds: tuple[float, float, float, float], parameter: str = "extent") -> Window:
        """The smallest window of whole pixels that covers `bounds`, cut to the grid.

        Raises:
            InputError: The bounds do not overlap the grid.
        """
        inverse = ~self.transform
        xmin, ymin, xmax, ymax = bounds
        cols, rows = zip(*(inverse * c for c in ((xmin, ymin), (xmin, ymax), (xmax, ymin), (xmax, ymax))), strict=True)
        left, right = max(int(np.floor(min(cols) + 1e-6)), 0), min(int(np.ceil(max(cols) - 1e-6)), self.width)
        top, bottom = max(int(np.floor(min(rows) + 1e-6)), 0), min(int(np.ceil(max(rows) - 1e-6)), self.height)
        if left >= right or top >= bottom:
            raise InputError(
                f"The area {bounds} does not overlap the scene {self.bounds}.",
                parameter,
                "Choose an area inside the scene.",
            )
        return Window(left, top, right - left, bottom - top)

    def crop(self, window: Window) -> Grid:
        """The grid of a window."""
        return Grid(self.crs, window_transform(window, self.transform), int(window.width), int(window.height))


class Scene:
    """Rasters on one grid. The first raster gives the grid; the others are warped to it while reading.

    Use `open_scene` to make one. Readers are opened on first use and closed by `close` or the `with` statement.
    """

    def __init__(self, bands: tuple[Band, ...], grid: Grid) -> None:
        self.bands, self.grid = bands, grid

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def names(self) -> list[str]:
        """Band names in order."""
        return [b.name for b in self.bands]

    @property
    def paths(self) -> list[Path]:
        """The rasters, each once, in order."""
        return list(dict.fromkeys(b.path for b in self.bands))

    def select(self, names: list[str], wanted_by: str, parameter: str = "scene") -> Scene:
        """The same scene with only the bands named, in that order.

        Raises:
            InputError: A band is missing; names it and the bands that are there.
        """
        by_name = {b.name: b for b in self.bands}
        missing = [n for n in names if n not in by_name]
        if missing:
            raise InputError(
                f"{wanted_by} needs the band{'s' * (len(missing) > 1)} {', '.join(missing)}, "
                f"but the scene {self.paths[0].name} has {', '.join(self.names)}.",
                parameter,
                "Add the raster that holds them, or name the bands with 'band_names'.",
            )
        return Scene(tuple(by_name[n] for n in names), self.grid)

    def read(self, window: Window) -> tuple[FloatArray, BoolArray]:
        """Read a window that lies inside the grid.

        Returns:
            Values `[bands, height, width]` in the units of the files (radar in dB), NaN where a band has no
            value; and `[height, width]`, true where every raster has data.

        Raises:
            InputError: A raster cannot be read.
        """
        values = np.full((len(self.bands), int(window.height), int(window.width)), np.nan, np.float32)
        valid = np.ones(values.shape[1:], bool)
        for reader in self._readers:
            try:
                reader.read_into(values, valid, window)
            except RasterioError as err:
                raise InputError(f"{reader.path} cannot be read ({err}).", "scene", "The file may be damaged.") from err
        valid &= np.isfinite(values).any(axis=0)
        values[:, ~valid] = np.nan
        return values, valid

    @cached_property
    def _readers(self) -> list[_Reader]:
        return [_Reader(path, self.bands, self.grid) for path in self.paths]

    def close(self) -> None:
        """Close the files; the scene opens them again when it is read again."""
        for reader in self.__dict__.pop("_readers", []):
            reader.close()


class _Reader:
    """Reads the bands of one file on the scene's grid."""

    def __init__(self, path: Path, bands: tuple[Band, ...], grid: Grid) -> None:
        self.path = path
        self.slots = [i for i, b in enumerate(bands) if b.path == path]
        self.indexes = [bands[i].index for i in self.slots]
        self.source = open_raster(path)
        alpha = np.array([self.source.colorinterp[i - 1] == ColorInterp.alpha for i in self.indexes])
        self.alpha = alpha & ~alpha.all()
        self.radar = [s for s in self.slots if bands[s].name.upper() in RADAR_BANDS and self._is_linear(bands[s].index)]
        same = (self.source.crs, self.source.width, self.source.height) == (grid.crs, grid.width, grid.height)
        self.same_grid = same and self.source.transform.almost_equals(grid.transform, 1e-6)
        self.dataset: Any = self.source if self.same_grid else self._warped(grid)

    def _warped(self, grid: Grid) -> WarpedVRT:
        ratio = abs(grid.transform.determinant / self.source.transform.determinant) if self._same_units(grid) else 1.0
        return WarpedVRT(
            self.source,
            crs=grid.crs,
            transform=grid.transform,
            width=grid.width,
            height=grid.height,
            resampling=Resampling.average if ratio > 2 else Resampling.bilinear,
            add_alpha=self.source.nodata is None and MaskFlags.alpha not in self.source.mask_flag_enums[0],
        )

    def _same_units(self, grid: Grid) -> bool:
        return bool(self.source.crs.is_projected == grid.crs.is_projected)

    def _is_linear(self, index: int) -> bool:
        """Radar backscatter in dB is mostly negative; linear power never is."""
        shape = (min(256, self.source.height), min(256, self.source.width))
        sample = self.source.read(index, out_shape=shape, masked=True).astype(np.float64).filled(np.nan)
        sample = sample * self.source.scales[index - 1] + self.source.offsets[index - 1]
        return bool(np.isfinite(sample).any() and np.nanmin(sample) >= 0)

    def read_into(self, values: FloatArray, valid: BoolArray, window: Window) -> None:
        """Fill this file's bands of `values`, and clear `valid` where the file has no data."""
        block = self.dataset.read(self.indexes, window=window, out_dtype=np.float32)
        if MaskFlags.all_valid not in self.dataset.mask_flag_enums[self.indexes[0] - 1]:
            masks = self.dataset.read_masks(self.indexes, window=window) > 0
            masks[self.alpha] = masks[~self.alpha].any(axis=0)  # opacity has a value everywhere
            block[~masks] = np.nan
            valid &= masks.any(axis=0)
        for row, (slot, index) in enumerate(zip(self.slots, self.indexes, strict=True)):
            scale, offset = self.source.scales[index - 1], self.source.offsets[index - 1]
            if (scale, offset) != (1.0, 0.0):
                block[row] = block[row] * scale + offset
            if slot in self.radar:
                block[row] = 10 * np.log10(np.maximum(block[row], 1e-6))
        valid &= np.isfinite(block).any(axis=0)
        values[self.slots] = np.where(np.isfinite(block), block, np.nan)

    def close(self) -> None:
        if not self.same_grid:
            self.dataset.close()
        self.source.close()


def open_raster(path: Path, parameter: str = "scene") -> Any:
    """Open a raster for reading.

    Raises:
        InputError: It does not exist or is no raster.
    """
    if not path.exists():
        raise InputError(f"The raster {path} does not exist.", parameter, "Check the path.")
    try:
        return rasterio.open(path)
    except RasterioIOError as err:
        raise InputError(f"{path} is not a readable raster ({err}).", parameter, "Check the file in QGIS.") from err


def open_scene(paths: Iterable[Path], band_names: list[str] | None = None) -> Scene:
    """Open rasters as one scene.

    Args:
        paths: Rasters; the first gives the grid.
        band_names: Names of all bands in the order of the files. If left out, the band descriptions, else a
            Sentinel name at the end of a single-band file's name (`…_B02.tif`), else `band1`, `band2`, …

    Raises:
        InputError: A file is missing or unreadable, lacks a CRS, or does not overlap the first; a CRS in
            degrees; band names that are too few, too many or not unique.
    """
    paths = [Path(p).expanduser().resolve() for p in paths]
    if not paths:
        raise InputError("The scene has no raster.", "scene", "Give at least one raster.")
    bands: list[Band] = []
    grid: Grid | None = None
    for path in paths:
        with open_raster(path) as src:
            if src.crs is None:
                raise InputError(
                    f"{path} has no coordinate reference system.", "scene", "Assign one (QGIS: Assign Projection)."
                )
            if grid is None:
                grid = Grid(src.crs, src.transform, src.width, src.height)
                _check_metric(grid, path)
            else:
                check_overlap(grid, src, paths[0].name, "scene")
            bands += [Band(_band_name(src, i, len(bands) + i), path, i) for i in range(1, src.count + 1)]
    if band_names:
        if len(band_names) != len(bands):
            raise InputError(
                f"{len(band_names)} band names were given, but the scene has {len(bands)} bands.",
                "band_names",
                "Give one name per band, in the order of the files.",
            )
        bands = [replace(b, name=n) for b, n in zip(bands, band_names, strict=True)]
    repeated = sorted({b.name for b in bands if [c.name for c in bands].count(b.name) > 1})
    if repeated:
        raise InputError(
            f"The scene has more than one band named {', '.join(repeated)}.", "scene", "Give unique 'band_names'."
        )
    assert grid is not None
    return Scene(tuple(bands), grid)


def open_scene_in_place(paths: Iterable[Path], band_names: list[str] | None) -> Scene:
    """Open rasters in place of others: with their own band names, or those of the others where they carry none.

    Args:
        paths: Rasters, as in `open_scene`.
        band_names: Names of all bands of the rasters whose place they take.
    """
    paths = list(paths)
    scene = open_scene(paths)
    carries_none = all(name == f"band{k}" for k, name in enumerate(scene.names, start=1))
    return open_scene(paths, band_names) if carries_none and band_names else scene


def _band_name(src: Any, index: int, position: int) -> str:
    description = src.descriptions[index - 1]
    if description:
        return str(description).strip()
    match = re.search(r"(?:^|_)(B\d{1,2}A?|VV|VH|HH|HV)$", Path(src.name).stem, re.IGNORECASE)
    return match.group(1).upper() if src.count == 1 and match else f"band{position}"


def _check_metric(grid: Grid, path: Path) -> None:
    if not grid.crs.is_projected:
        raise InputError(
            f"{path} has a CRS in degrees or an unknown one; tiles are measured in metres.",
            "scene",
            "Reproject the first raster to a projected CRS such as its UTM zone (QGIS: Warp).",
        )


def check_overlap(grid: Grid, src: Any, other: str, parameter: str) -> None:
    """Refuse a raster that does not overlap a grid.

    Args:
        grid: The grid.
        src: The open raster.
        other: What the grid belongs to, for an error.
        parameter: Job field that an error names.

    Raises:
        InputError: No overlap, or the two CRSs cannot be related.
    """
    try:
        there = _bounds_meet(transform_bounds(src.crs, grid.crs, *src.bounds), grid.bounds)
        # The bounds of a raster of the whole world mean nothing in a local CRS.
        there = there or _bounds_meet(transform_bounds(grid.crs, src.crs, *grid.bounds), src.bounds)
    except (CRSError, RasterioError, CPLE_BaseError) as err:
        raise InputError(
            f"The CRS of {src.name} cannot be related to that of {other}.", parameter, "Reproject one of them."
        ) from err
    if not there:
        raise InputError(
            f"{src.name} does not overlap {other}.", parameter, "Give rasters of the same place, with the right CRS."
        )


def _bounds_meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and a[2] > b[0] and a[1] < b[3] and a[3] > b[1]
