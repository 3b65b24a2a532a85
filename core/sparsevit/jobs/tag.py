"""Write image-level labels into a tile index."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from sparsevit.errors import InputError
from sparsevit.geodata.layers import POINTS, POLYGONS, field_of, read_layer
from sparsevit.geodata.legend import ClassScheme, load_scheme
from sparsevit.geodata.tile_index import UNKNOWN, USUAL_THRESHOLD, TileIndex, read_tile_index
from sparsevit.jobs.base import Job, Request, Result, absolute
from sparsevit.labels.cooccurrence import choose_classes, contrast_warnings, cooccurrence, table_text
from sparsevit.labels.fields import TagArray, boolean_tags, match_polygons, text_tags
from sparsevit.labels.mapping import Translation, class_positions, code_table, load_mapping
from sparsevit.labels.raster import count_classes, raster_tags
from sparsevit.labels.settings import TagSettings
from sparsevit.labels.vectors import point_tags, polygon_tags
from sparsevit.outputs import check_writable
from sparsevit.reporting import Reporter

Found = tuple[TagArray, float | None, list[str]]
"""Tags `[tiles, classes]`, their presence threshold where it is known, and warnings."""


class TagRequest(Request):
    """Write image-level labels (which classes occur in a tile) into a tile index."""

    tiles: Path = Field(description="Tile index (.gpkg).")
    scheme: Path = Field(description="Class scheme (JSON or CSV): code, name, colour of each class.")
    source: Literal["text", "fields", "vector", "raster"] = Field(
        description="text: a field such as 'forest, water'; fields: one boolean field per class; "
        "vector: polygons or points with a class field; raster: any categorical raster, coarse or fine."
    )
    layer: Path | None = Field(
        default=None, description="Vector layer to read from. For text and fields the tile index itself if left out."
    )
    field: str | None = Field(
        default=None,
        description="Field with the classes (text) or the class (vector); for patches with rasters of their own, the "
        "field that names them, 'reference' if left out.",
    )
    raster: Path | None = Field(
        default=None, description="Categorical raster to read from. For patches, their own reference files if left out."
    )
    mapping: Path | dict[str, str | int | None] | None = Field(
        default=None,
        description="From values of the source to codes or names of the scheme (JSON or two-column CSV); null drops.",
    )
    classes: list[str] = Field(
        default=[], description="Only these classes of the scheme (names); all that occur if empty."
    )
    tagging: TagSettings = TagSettings()
    output: Path | None = Field(
        default=None, description="Where to write; the tile index itself is updated if left out."
    )


class TagResult(Result):
    """The tags that were written, and whether they can work."""

    output: str
    tiles: int
    tagged: int
    classes: list[str]
    present: dict[str, int]
    cooccurrence: list[list[int]]
    table: str
    warnings: list[str]


def run(request: TagRequest, reporter: Reporter) -> TagResult:
    """Tag the tiles of an index.

    Raises:
        InputError: Nothing can be tagged; see the message.
    """
    output = request.output or request.tiles
    check_writable(output, (".gpkg",))
    index = read_tile_index(request.tiles)
    scheme = load_scheme(request.scheme)
    translation = load_mapping(request.mapping, scheme)
    tags, threshold, warnings = READERS[request.source](request, index, scheme, translation, reporter)
    if not (tags != UNKNOWN).any():
        raise _nothing_tagged(request, index)
    kept, tags = choose_classes(tags, scheme, request.classes)
    dropped = [n for n in scheme.names if n not in kept.names]
    if dropped:
        reporter.log(f"Classes without tags are left out: {', '.join(dropped)}.")
    warnings += contrast_warnings(tags, kept)
    for warning in warnings:
        reporter.log(warning, "warning")
    table = table_text(tags, kept)
    reporter.log(f"Tiles in which two classes occur together:\n{table}")
    index.unreviewed().with_tags(kept, tags, threshold).write(output)
    reporter.progress(1.0, "tagged")
    together = cooccurrence(tags)
    return TagResult(
        output=absolute(output),
        tiles=len(index),
        tagged=int((tags != UNKNOWN).any(axis=1).sum()),
        classes=kept.names,
        present={n: int(together[j, j]) for j, n in enumerate(kept.names)},
        cooccurrence=together.tolist(),
        table=table,
        warnings=warnings,
    )


def _from_fields(
    request: TagRequest, index: TileIndex, scheme: ClassScheme, translation: Translation | None, _: Reporter
) -> Found:
    """Tags from the fields of a polygon layer, or of the index itself."""
    path = request.layer or request.tiles
    frame = index.frame
    if request.layer is not None:
        frame = read_layer(request.layer, index.frame.crs, "layer", POLYGONS)
        _check_overlap(index, frame.total_bounds, request.layer)
    if request.source == "text":
        name = field_of(frame, request.field, path)
        where = f"{path}, field '{name}',"
        tags = text_tags(frame[name], scheme, translation, request.tagging.complete, where)
    else:
        tags = boolean_tags(frame.drop(columns=frame.geometry.name), scheme, translation, str(path))
    if request.layer is not None:
        polygon = match_polygons(index.frame, frame)
        tags = np.where((polygon >= 0)[:, None], tags[polygon], UNKNOWN).astype(np.int8)
    return tags, request.tagging.presence_threshold, []


def _from_vector(
    request: TagRequest, index: TileIndex, scheme: ClassScheme, translation: Translation | None, _: Reporter
) -> Found:
    """Tags from polygons or points with a class field."""
    if request.layer is None:
        raise InputError("No vector layer was given.", "layer", "Give polygons or points with a class field.")
    layer = read_layer(request.layer, index.frame.crs, "layer", POLYGONS + POINTS)
    _check_overlap(index, layer.total_bounds, request.layer)
    name = field_of(layer, request.field, request.layer)
    where = f"{request.layer}, field '{name}',"
    classes = class_positions(layer[name], scheme, translation, where)
    points = layer.geom_type.isin(POINTS).to_numpy()
    count, settings = len(scheme.classes), request.tagging
    if points.all():
        return point_tags(index.frame, layer, classes, count, settings.complete), settings.presence_threshold, []
    if points.any():
        raise InputError(f"{request.layer} mixes points and polygons.", "layer", "Give one kind only.")
    threshold = settings.presence_threshold or USUAL_THRESHOLD
    return polygon_tags(index.frame, layer, classes, count, threshold, settings.complete), threshold, []


def _from_raster(
    request: TagRequest, index: TileIndex, scheme: ClassScheme, translation: Translation | None, reporter: Reporter
) -> Found:
    """Tags from a categorical raster."""
    settings = request.tagging
    table = code_table(translation, scheme)
    part = reporter.part(0, 0.95, "reading tags")
    raster = request.raster or request.field or "reference"
    counts, others = count_classes(index, raster, table, len(scheme.classes), part)
    pixels = (index.frame["height"] * index.frame["width"]).to_numpy(np.int64)
    threshold = settings.presence_threshold or USUAL_THRESHOLD
    tags = raster_tags(counts, pixels, threshold, settings.min_labelled)
    dropped = {int(k) for k, v in (translation or {}).items() if v is None and k.lstrip("-").isdigit()}
    unlisted = sorted(others - dropped)
    if not unlisted:
        return tags, threshold, []
    shown = ", ".join(map(str, unlisted[:10])) + (", …" if len(unlisted) > 10 else "")
    source = request.raster or "The reference rasters"
    warning = f"{source}: pixels with the values {shown}, no class of '{scheme.name}', count as unlabelled."
    return tags, threshold, [warning]


READERS = {"text": _from_fields, "fields": _from_fields, "vector": _from_vector, "raster": _from_raster}


def _check_overlap(index: TileIndex, bounds: npt.NDArray[np.float64], path: Path) -> None:
    xmin, ymin, xmax, ymax = index.frame.total_bounds
    if not (bounds[0] <= xmax and bounds[2] >= xmin and bounds[1] <= ymax and bounds[3] >= ymin):
        raise InputError(f"{path} does not overlap the scene of the tiles.", "layer", "Check both CRSs and extents.")


def _nothing_tagged(request: TagRequest, index: TileIndex) -> InputError:
    """Say why no tile got a tag, as far as it can be known."""
    hint = "Check that tiles and tags cover the same places."
    if request.source in ("text", "fields") and request.layer is not None:
        layer = read_layer(request.layer, index.frame.crs, "layer", POLYGONS)
        sides = [f"{np.sqrt(frame.area.median()):.0f}" for frame in (layer, index.frame)]
        hint = (
            f"A tile takes the tags of a polygon that coincides with it: the polygons' sides are about {sides[0]}, "
            f"those of the tiles {sides[1]} map units. Cut the tiles with 'footprints' = the layer and a matching "
            "'tile_size_m'."
        )
    elif request.source == "raster":
        hint = "Check the raster's codes, give a 'mapping', or lower 'min_labelled'."
    source = request.layer or request.raster or request.tiles
    return InputError(
        f"{source} tags no tile of {request.tiles}.",
        "layer" if request.layer else "raster" if request.raster else "tiles",
        hint,
    )


JOB = Job("tag", TagRequest, run)
