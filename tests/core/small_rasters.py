"""Small rasters, scenes and layers that the tests of the engine share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from sparsevit.geodata.legend import ClassScheme, load_scheme

ROOT = Path(__file__).resolve().parents[2]
RESOURCES = ROOT / "resources"
SAMPLE = RESOURCES / "sample"
UTM = "EPSG:32618"
ORIGIN = (500_000.0, 4_100_000.0)


def scheme(name: str = "dfc2020") -> ClassScheme:
    """A scheme that ships with the plugin."""
    return load_scheme(RESOURCES / "schemes" / f"{name}.json")


def write_raster(
    path: Path,
    values: np.ndarray,
    gsd: float = 10.0,
    origin: tuple[float, float] = ORIGIN,
    crs: str | None = UTM,
    names: list[str] | None = None,
    **profile: Any,
) -> Path:
    """Write `[height, width]` or `[bands, height, width]` as a GeoTIFF."""
    values = values if values.ndim == 3 else values[None]
    count, height, width = values.shape
    where = {"crs": crs, "transform": from_origin(*origin, gsd, gsd)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype, **where, **profile
    ) as out:
        out.write(values)
        for i, name in enumerate(names or [], start=1):
            out.set_band_description(i, name)
    return path


def write_layer(path: Path, geometries: list[Any], crs: str | None = UTM, **columns: list[Any]) -> Path:
    """Write geometries with attribute columns as a GeoPackage."""
    geopandas.GeoDataFrame(columns, geometry=geometries, crs=crs).to_file(path, driver="GPKG", engine="pyogrio")
    return path


def development_data(*parts: str) -> Path:
    """A file or folder of the development data, which is no part of the project; the test is skipped without it."""
    folder = Path(os.environ.get("SPARSEVIT_DATA", ROOT.parent / "shared" / "data"))
    path = folder.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} of the development data (set SPARSEVIT_DATA)")
    return path
