"""Vector layers in: one way to open them, one set of messages when they cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas
import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj.exceptions import CRSError, ProjError

from sparsevit.errors import InputError

POLYGONS = ("Polygon", "MultiPolygon")
POINTS = ("Point", "MultiPoint")
TILES = "tiles"
"""Layer of a tile index, which may have others beside it."""


def read_layer(path: Path, crs: Any, parameter: str, kinds: tuple[str, ...] = POLYGONS) -> geopandas.GeoDataFrame:
    """Read a vector layer and bring it to a CRS.

    Args:
        path: Vector file; `file.gpkg|layername=name` chooses a layer, else the tiles are read, or the first one.
        crs: CRS of the result.
        parameter: Job field that an error names.
        kinds: Geometry types that can be used; features without a geometry are dropped.

    Raises:
        InputError: The file is missing or unreadable, has no CRS, no features, or other geometries.
    """
    name, _, layer = str(path).partition("|layername=")
    file = Path(name)
    if not file.exists():
        raise InputError(f"The layer {file} does not exist.", parameter, "Check the path.")
    try:
        names = [str(name) for name, _ in pyogrio.list_layers(file)]
        layer = layer.partition("|")[0] or (TILES if TILES in names else names[0])
        frame = geopandas.read_file(file, layer=layer, engine="pyogrio")
    except (DataSourceError, DataLayerError, IndexError) as err:
        raise InputError(f"{path} is not a readable vector layer ({err}).", parameter, "Check it in QGIS.") from err
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise InputError(f"{path} is a table without geometry.", parameter, f"Give {_words(kinds)}.")
    frame = frame[~(frame.geometry.isna() | frame.geometry.is_empty)].reset_index(drop=True)
    if frame.empty:
        raise InputError(f"{path} has no features.", parameter, f"Give {_words(kinds)}.")
    others = set(frame.geom_type) - set(kinds)
    if others:
        raise InputError(
            f"{path} has geometries of type {', '.join(sorted(others))}, which cannot be used here.",
            parameter,
            f"Give {_words(kinds)}.",
        )
    return _in_crs(frame, crs, path, parameter)


def field_of(frame: geopandas.GeoDataFrame, name: str | None, path: Path, parameter: str = "field") -> str:
    """The name of an attribute field as the layer spells it.

    Raises:
        InputError: No field was named, or the layer does not have it.
    """
    fields = [str(c) for c in frame.columns if c != frame.geometry.name]
    if not name:
        raise InputError(f"The class field of {path} is not given.", parameter, f"It has {_listed(fields)}.")
    for field in fields:
        if field == name or field.casefold() == name.casefold():
            return field
    raise InputError(f"{path} has no field '{name}'.", parameter, f"It has {_listed(fields)}.")


def _in_crs(frame: geopandas.GeoDataFrame, crs: Any, path: Path, parameter: str) -> geopandas.GeoDataFrame:
    if frame.crs is None:
        raise InputError(
            f"{path} has no coordinate reference system.", parameter, "Assign one (QGIS: Assign Projection)."
        )
    try:
        return frame.to_crs(crs)
    except (CRSError, ProjError) as err:
        raise InputError(
            f"The CRS of {path} cannot be related to that of the scene ({err}).", parameter, "Reproject the layer."
        ) from err


def _words(kinds: tuple[str, ...]) -> str:
    return " or ".join(w for w, k in (("polygons", POLYGONS), ("points", POINTS)) if set(k) & set(kinds))


def _listed(fields: list[str]) -> str:
    return f"the fields {', '.join(fields)}" if fields else "no fields"
