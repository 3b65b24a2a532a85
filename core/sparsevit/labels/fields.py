"""Tags from attribute fields: a text such as 'forest, water', or one boolean field per class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pandas
import shapely

from sparsevit.errors import InputError
from sparsevit.geodata.legend import ClassScheme, LandClass
from sparsevit.geodata.tile_index import ABSENT, PRESENT, UNKNOWN
from sparsevit.labels.mapping import Translation, key, known_labels, resolve

TagArray = npt.NDArray[np.int8]

SEPARATORS = "|;,"
"""Strongest first: names that contain a comma survive in 'Arable land, irrigated | Pastures'."""
MINIMUM_IOU = 0.5
"""A tile takes the tags of the polygon that it shares more than half of their common area with."""
YES, NO = {"1", "true", "t", "yes", "y", "present"}, {"0", "false", "f", "no", "n", "absent"}


def text_tags(
    texts: Iterable[Any], scheme: ClassScheme, translation: Translation | None, complete: bool, where: str
) -> TagArray:
    """Tags from texts that list classes, separated by `,`, `;` or `|`.

    Args:
        texts: One text, code or list per tile; empty or null means that nothing is known.
        scheme: The classes.
        translation: Mapping of the texts' words to classes.
        complete: Classes that a text does not list are absent; else unknown.
        where: File and field, for an error.

    Returns:
        `[tiles, classes]`: 1 present, 0 absent, -1 unknown.

    Raises:
        InputError: A word is no class; names it.
    """
    position = {code: j for j, code in enumerate(scheme.codes)}
    known = known_labels(scheme, translation)
    rows = []
    for value in texts:
        row = np.full(len(position), UNKNOWN, np.int8)
        if isinstance(value, (list, tuple, np.ndarray)):  # fields of lists, as GeoJSON has them
            value = SEPARATORS[0].join(map(str, value))
        text = "" if pandas.isna(value) else str(value).strip()
        if text:
            codes = {resolve(label, scheme, translation, where) for label in split_labels(text, known)}
            if complete:
                row[:] = ABSENT
            row[[position[c] for c in codes if c is not None]] = PRESENT
        rows.append(row)
    return np.stack(rows)


def split_labels(text: str, known: set[str], separators: str = SEPARATORS) -> list[str]:
    """Split a text at its strongest separator, unless it is a known label as a whole."""
    if key(text) in known or not separators:
        return [text] if text.strip() else []
    return [label for part in text.split(separators[0]) for label in split_labels(part, known, separators[1:])]


def boolean_tags(frame: pandas.DataFrame, scheme: ClassScheme, translation: Translation | None, where: str) -> TagArray:
    """Tags from one boolean field per class: true present, false absent, null unknown.

    A field belongs to a class when it is mapped to it, or named like it (`Forest`, `has_forest`).

    Returns:
        `[tiles, classes]`; unknown for classes without a field.

    Raises:
        InputError: No field belongs to a class, or a value is no truth value.
    """
    tags = np.full((len(frame), len(scheme.classes)), UNKNOWN, np.int8)
    fields = [_field_for(c, frame, translation) for c in scheme.classes]
    if not any(fields):
        raise InputError(
            f"{where} has no field named after a class of '{scheme.name}'.",
            "layer",
            f"Name the fields {scheme.classes[0].field}, …, or map field names to classes with 'mapping'.",
        )
    for j, name in enumerate(fields):
        if name is not None:
            tags[:, j] = [_truth(v, where, name) for v in frame[name]]
    return tags


def match_polygons(tiles: geopandas.GeoDataFrame, layer: geopandas.GeoDataFrame) -> npt.NDArray[np.intp]:
    """The polygon that every tile coincides with: highest intersection over union, at least 0.5.

    Args:
        tiles: Footprints.
        layer: Polygons in the same CRS.

    Returns:
        Row of the polygon `[tiles]`; -1 where there is none.
    """
    footprints, polygons = tiles.geometry.to_numpy(), shapely.make_valid(layer.geometry.to_numpy())
    tile, polygon = shapely.STRtree(polygons).query(footprints, predicate="intersects")
    shared = shapely.area(shapely.intersection(footprints[tile], polygons[polygon]))
    iou = shared / (shapely.area(footprints[tile]) + shapely.area(polygons[polygon]) - shared)
    best = np.full(len(tiles), -1, np.intp)
    order = np.argsort(iou, kind="stable")  # the best is written last
    order = order[iou[order] >= MINIMUM_IOU - 1e-9]
    best[tile[order]] = polygon[order]
    return best


def _field_for(land_class: LandClass, frame: pandas.DataFrame, translation: Translation | None) -> str | None:
    for column in map(str, frame.columns):
        if column == "geometry":
            continue
        mapped = translation is not None and translation.get(key(column)) == land_class.code
        alike = LandClass(-1, column, "").field
        same = column.casefold() == land_class.name.casefold()
        if mapped or same or land_class.field in (column, alike, alike.removeprefix("has_")):
            return column
    return None


def _truth(value: object, where: str, name: str) -> int:
    text = key(value)
    if text in ("", "none", "nan", "<na>"):
        return UNKNOWN
    if text in YES:
        return PRESENT
    if text in NO:
        return ABSENT
    raise InputError(
        f"{where}: field '{name}' has the value '{value}', which is neither true nor false.",
        "layer",
        "Use 1, 0 or null.",
    )
