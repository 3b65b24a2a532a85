"""Class polygons out: one GeoPackage with the polygons, the class scheme and the legend; whole or not at all."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree  # nosec B405: writes XML, never parses any
from pathlib import Path

import geopandas
import pandas
import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

from sparsevit.errors import ResourceError
from sparsevit.geodata.legend import ClassScheme
from sparsevit.geodata.writer import SCHEME_TAG
from sparsevit.outputs import whole_file

LAYER = "land_cover"
CODE_FIELD = "code"


def write_class_layer(frame: geopandas.GeoDataFrame, scheme: ClassScheme, path: Path) -> None:
    """Write class polygons as a GeoPackage that QGIS opens with the colours of the scheme.

    Args:
        frame: Polygons with their class code in the field `code`.
        scheme: The classes.
        path: File to write (.gpkg).

    Raises:
        ResourceError: The file cannot be written (disk full, permission).
    """
    try:
        with whole_file(path) as partial:
            card = {SCHEME_TAG: scheme.to_json()}
            pyogrio.write_dataframe(frame, partial, layer=LAYER, driver="GPKG", layer_metadata=card)
            pyogrio.write_dataframe(_style_table(scheme, frame), partial, layer="layer_styles", driver="GPKG")
    except (DataSourceError, DataLayerError, FeatureError, OSError) as err:
        raise ResourceError(
            f"{path} cannot be written ({err}).", "output", "Check free disk space and permissions."
        ) from err


def _style_table(scheme: ClassScheme, frame: geopandas.GeoDataFrame) -> pandas.DataFrame:
    """The table in which QGIS keeps the styles of a GeoPackage, with one style."""
    style = {
        "f_table_catalog": "",
        "f_table_schema": "",
        "f_table_name": LAYER,
        "f_geometry_column": "geom",
        "styleName": scheme.name,
        "styleQML": class_style(scheme),
        "styleSLD": "",
        "useAsDefault": True,
        "description": "",
        "owner": "",
        "ui": "",
        "update_time": pandas.Timestamp.now("UTC"),
    }
    return pandas.DataFrame([style])


def class_style(scheme: ClassScheme) -> str:
    """A style of QGIS (QML) that fills polygons by their class code with the colours of the scheme."""
    root = ElementTree.Element("qgis", version="3.22.0", styleCategories="Symbology")
    renderer = ElementTree.SubElement(root, "renderer-v2", type="categorizedSymbol", attr=CODE_FIELD)
    categories, symbols = (ElementTree.SubElement(renderer, name) for name in ("categories", "symbols"))
    for position, c in enumerate(scheme.classes):
        entry = {"value": str(c.code), "symbol": str(position), "label": c.name, "render": "true"}
        ElementTree.SubElement(categories, "category", entry)
        symbol = ElementTree.SubElement(symbols, "symbol", {"type": "fill", "name": str(position), "alpha": "1"})
        fill = ElementTree.SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1"})
        colour = ",".join(map(str, (*c.rgb, 255)))
        # A thin outline in the same colour hides the hairlines that smoothed edges leave between neighbours.
        for key, value in {"color": colour, "outline_color": colour, "outline_width": "0.1", "style": "solid"}.items():
            ElementTree.SubElement(fill, "prop", {"k": key, "v": value})
    return ElementTree.tostring(root, encoding="unicode")
