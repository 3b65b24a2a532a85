"""Reference data of any kind: a raster, polygons or points, read on any grid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import numpy.typing as npt
import pyogrio
import shapely
from pyogrio.errors import DataSourceError

from sparsevit.assessment.comparison import ReadSample, sample_layer, sample_raster
from sparsevit.errors import InputError
from sparsevit.geodata.layers import POINTS, POLYGONS, read_layer
from sparsevit.geodata.scene import Grid


@dataclass(frozen=True)
class RasterReference:
    """A categorical raster; `table` gives the class position of its values."""

    path: Path
    table: dict[int, int]
    unit: str = "pixels"


@dataclass(frozen=True)
class LayerReference:
    """Polygons or points in the CRS of the map, and the class position of each (negative: not used)."""

    layer: geopandas.GeoDataFrame
    classes: npt.NDArray[np.intp]

    @property
    def unit(self) -> str:
        """What is counted."""
        return "points" if self.layer.geom_type.isin(POINTS).all() else "pixels"


Reference = RasterReference | LayerReference


def is_layer(path: Path) -> bool:
    """Tell a vector file from a raster."""
    name, _, layer = str(path).partition("|layername=")
    if layer or not Path(name).exists():
        return bool(layer)
    try:
        return len(pyogrio.list_layers(name)) > 0
    except DataSourceError:
        return False


def read_reference_layer(path: Path, grid: Grid) -> geopandas.GeoDataFrame:
    """Read reference polygons or points, in the CRS of a grid.

    Raises:
        InputError: The layer cannot be used (see `read_layer`), mixes kinds, or lies elsewhere.
    """
    layer = read_layer(path, grid.crs, "reference", POLYGONS + POINTS)
    points = layer.geom_type.isin(POINTS)
    if points.any() and not points.all():
        raise InputError(f"{path} mixes points and polygons.", "reference", "Give one kind only.")
    if not shapely.box(*grid.bounds).intersects(shapely.box(*layer.total_bounds)):
        raise InputError(f"{path} does not overlap the map.", "reference", "Check both CRSs and extents.")
    return layer


@contextmanager
def reference_on(reference: Reference, grid: Grid) -> Iterator[ReadSample]:
    """Open a reference on a grid.

    Raises:
        InputError: The raster cannot be used; see `categories_on`.
    """
    if isinstance(reference, LayerReference):
        yield sample_layer(reference.layer, reference.classes.astype(np.int16), grid)
        return
    with sample_raster(reference.path, grid, reference.table, "reference") as read:
        yield read
