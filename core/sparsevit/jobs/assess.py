"""Compare a map with reference data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field
from rasterio.windows import Window

from sparsevit.assessment.accuracy import accuracy
from sparsevit.assessment.area import AreaEstimate, estimate_areas
from sparsevit.assessment.comparison import NOTHING, Comparison, ReadSample, compare, sample_layer, sample_raster
from sparsevit.assessment.figures import overview_figure
from sparsevit.assessment.notes import area_notes, caution_notes, foreign_note, sampling_notes
from sparsevit.assessment.reference import (
    LayerReference,
    RasterReference,
    Reference,
    is_layer,
    read_reference_layer,
    reference_on,
)
from sparsevit.assessment.report import Report, absent_names, write_html, write_json
from sparsevit.errors import InputError
from sparsevit.geodata.categorical import scheme_of
from sparsevit.geodata.layers import field_of
from sparsevit.geodata.legend import ClassScheme
from sparsevit.geodata.scene import Grid, open_raster
from sparsevit.geodata.tile_index import SPLITS, read_tile_index
from sparsevit.geodata.writer import CAUTIONS_TAG, SCHEME_TAG
from sparsevit.jobs.base import Job, Request, Result, absolute
from sparsevit.labels.mapping import Translation, class_positions, code_table, key, load_mapping
from sparsevit.outputs import check_distinct, check_writable
from sparsevit.reporting import Reporter

OVERVIEW_SIDE = 500
"""Longest side of the pictures in the report (pixels)."""


class AssessRequest(Request):
    """Assess a map against reference data: confusion matrix, mIoU, areas with confidence intervals."""

    map: Path = Field(description="Land-cover raster to assess (.tif).")
    reference: Path = Field(description="Reference raster, polygons or points.")
    field: str | None = Field(default=None, description="Class field (code or name) of a vector reference.")
    scheme: Path | None = Field(default=None, description="Class scheme; the legend inside the map if left out.")
    mapping: Path | dict[str, str | int | None] | None = Field(
        default=None,
        description="From values of the reference to codes or names of the scheme (JSON or two-column CSV).",
    )
    tiles: Path | None = Field(default=None, description="Tile index: assess only inside the tiles of `split`.")
    split: str = Field(
        default="validation", description="Split of the tile index to assess in: train, validation, test."
    )
    title: str = Field(default="Land-cover accuracy", description="Title of the report.")
    output: Path = Field(description="Report to write (.html).")
    json_output: Path | None = Field(default=None, description="The same numbers as JSON (.json); none if left out.")


class AssessResult(Result):
    """The numbers of the report."""

    output: str
    json_output: str | None
    pixels: int
    overall_accuracy: float
    average_accuracy: float
    miou: float
    absent_classes: list[str]
    iou: dict[str, float | None]
    estimated_ha: dict[str, float]
    margin95_ha: dict[str, float]
    notes: list[str]


def run(request: AssessRequest, reporter: Reporter) -> AssessResult:
    """Assess a map.

    Raises:
        InputError: Map and reference cannot be compared; see the message.
    """
    check_writable(request.output, (".html", ".htm"))
    if request.json_output is not None:
        check_writable(request.json_output, (".json",), "json_output")
    inputs = [request.map, request.reference, request.scheme, request.tiles]
    check_distinct({"output": request.output, "json_output": request.json_output}, inputs)
    grid, scheme, tags = _open_map(request)
    cautions = tags.pop(CAUTIONS_TAG, "").splitlines()
    translation = load_mapping(request.mapping, scheme)
    reference = open_reference(request, grid, scheme, translation)
    table, area = code_table(None, scheme), _area(request, grid)
    with sample_raster(request.map, grid, table, "map") as mapped, reference_on(reference, grid) as read:
        comparison = compare(mapped, read, area, grid, len(scheme.classes), reporter.part(0, 0.8))
    if not comparison.confusion.any():
        raise InputError(
            f"There is no place where both {request.map.name} and {request.reference.name} have a class.",
            "reference",
            "Check extents, class codes ('mapping') and the split.",
        )
    result = accuracy(comparison.confusion)
    areas = _areas(comparison, grid)
    report = Report(
        title=request.title,
        scheme=scheme,
        accuracy=result,
        areas=areas,
        unit=reference.unit,
        provenance=_provenance(request, scheme, tags),
        notes=caution_notes(cautions, "map") + _notes(request, comparison, scheme, translation, areas, reference.unit),
        overview=_overview(request, grid, scheme, reference),
    )
    reporter.progress(0.9, "writing the report")
    write_html(report, request.output)
    if request.json_output is not None:
        write_json(report, request.json_output)
    reporter.progress(1.0, "report written")
    return _result(request, report)


def _open_map(request: AssessRequest) -> tuple[Grid, ClassScheme, dict[str, str]]:
    """The map's grid, its legend, and its tags."""
    with open_raster(request.map, "map") as src:
        tags: dict[str, str] = src.tags()
        if src.crs is None:
            raise InputError(f"{request.map} has no coordinate reference system.", "map", "Assign one in QGIS.")
        grid = Grid(src.crs, src.transform, src.width, src.height)
    scheme = scheme_of(tags, request.map, request.scheme)
    tags.pop(SCHEME_TAG, None)
    return grid, scheme, tags


def open_reference(
    request: AssessRequest, grid: Grid, scheme: ClassScheme, translation: Translation | None
) -> Reference:
    """The reference of a map that lies on a grid.

    Raises:
        InputError: It cannot be read, has no such field or no such classes, or lies elsewhere.
    """
    if not is_layer(request.reference):
        return RasterReference(request.reference, code_table(translation, scheme))
    layer = read_reference_layer(request.reference, grid)
    name = field_of(layer, request.field, request.reference)
    where = f"{request.reference}, field '{name}',"
    return LayerReference(layer, class_positions(layer[name], scheme, translation, where))


def _area(request: AssessRequest, grid: Grid) -> ReadSample | None:
    """The tiles of the split."""
    if request.tiles is None:
        return None
    if request.split not in SPLITS:
        raise InputError(f"There is no split '{request.split}'.", "split", f"Choose one of {', '.join(SPLITS)}.")
    frame = read_tile_index(request.tiles).in_split(request.split).frame
    if frame.empty:
        raise InputError(
            f"{request.tiles} has no tiles in the split '{request.split}'.", "split", "Choose another split, or none."
        )
    return sample_layer(frame.to_crs(grid.crs), np.zeros(len(frame), np.int16), grid)


def _areas(comparison: Comparison, grid: Grid) -> AreaEstimate | None:
    if not grid.crs.is_projected:
        return None
    pixel_ha = abs(grid.transform.determinant) * grid.crs.linear_units_factor[1] ** 2 / 10_000
    return estimate_areas(comparison.confusion, comparison.mapped * pixel_ha)


def _overview(request: AssessRequest, grid: Grid, scheme: ClassScheme, reference: Reference) -> str:
    """Map, reference and agreement at reduced resolution."""
    step = max(grid.width / OVERVIEW_SIDE, grid.height / OVERVIEW_SIDE, 1)
    width, height = max(int(grid.width / step), 1), max(int(grid.height / step), 1)
    transform = grid.transform * grid.transform.scale(grid.width / width, grid.height / height)
    small = Grid(grid.crs, transform, width, height)

    def picture(read: ReadSample) -> npt.NDArray[np.int16]:
        sample, flat = read(Window(0, 0, width, height)), np.full(width * height, NOTHING, np.int16)
        flat[sample.pixels] = sample.classes
        return flat.reshape(height, width)

    area, table = _area(request, small), code_table(None, scheme)
    with sample_raster(request.map, small, table, "map") as mapped, reference_on(reference, small) as read:
        here, there = picture(mapped), picture(read)
    if area is not None:
        there[picture(area) < 0] = NOTHING
    xmin, ymin, xmax, ymax = grid.bounds
    return overview_figure(here, there, scheme, (xmin, xmax, ymin, ymax))


def _provenance(request: AssessRequest, scheme: ClassScheme, tags: dict[str, str]) -> dict[str, str]:
    where = f"tiles of the split '{request.split}' of {request.tiles.name}" if request.tiles else "everywhere"
    facts = {
        "Map": request.map.name,
        "Reference": request.reference.name,
        "Compared": where,
        "Class scheme": scheme.name,
    }
    named = {f"Map: {k.removeprefix('SPARSEVIT_').lower()}": v for k, v in sorted(tags.items()) if k != "AREA_OR_POINT"}
    return facts | named


def _notes(
    request: AssessRequest,
    comparison: Comparison,
    scheme: ClassScheme,
    translation: Translation | None,
    areas: AreaEstimate | None,
    unit: str,
) -> list[str]:
    dropped = {k for k, v in (translation or {}).items() if v is None}
    unlisted = {v: n for v, n in comparison.foreign_reference.items() if key(v) not in dropped}
    compared = int(comparison.confusion.sum())
    return [
        *sampling_notes(unit, request.split if request.tiles else None),
        *foreign_note("map", comparison.foreign_map, compared, scheme),
        *foreign_note("reference", unlisted, compared, scheme),
        *area_notes(areas, scheme),
    ]


def _result(request: AssessRequest, report: Report) -> AssessResult:
    names, result, areas = report.scheme.names, report.accuracy, report.areas
    return AssessResult(
        output=absolute(request.output),
        json_output=absolute(request.json_output) if request.json_output else None,
        pixels=int(result.confusion.sum()),
        overall_accuracy=result.overall,
        average_accuracy=result.average,
        miou=result.miou,
        absent_classes=absent_names(report),
        iou={n: None if np.isnan(v) else float(v) for n, v in zip(names, result.iou, strict=True)},
        estimated_ha=dict(zip(names, areas.estimated.tolist(), strict=True)) if areas else {},
        margin95_ha=dict(zip(names, areas.margin.tolist(), strict=True)) if areas else {},
        notes=report.notes,
    )


JOB = Job("assess", AssessRequest, run)
