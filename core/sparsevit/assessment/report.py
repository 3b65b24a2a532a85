"""The accuracy report: one page that explains itself, and the same numbers as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from sparsevit import __version__
from sparsevit.assessment.accuracy import Accuracy
from sparsevit.assessment.area import AreaEstimate
from sparsevit.assessment.figures import area_figure, confusion_figure
from sparsevit.geodata.legend import ClassScheme
from sparsevit.outputs import whole_file

TEMPLATE = "report.html"


@dataclass(frozen=True)
class Report:
    """Everything that the report shows.

    Attributes:
        title: Its title.
        scheme: The classes.
        accuracy: Accuracy measures.
        areas: Area estimates; none where the map's CRS has no area unit.
        unit: What was compared: `pixels` or `points`.
        provenance: Where map and reference come from, by name.
        notes: What a reader must know to judge the numbers.
        overview: `data:` address of the overview picture.
    """

    title: str
    scheme: ClassScheme
    accuracy: Accuracy
    areas: AreaEstimate | None
    unit: str
    provenance: dict[str, str]
    notes: list[str]
    overview: str


def templates() -> jinja2.Environment:
    """The pages of the reports, with the filters that they share."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": _percent, "hectares": _hectares, "thousands": _thousands}
    return environment


def write_html(report: Report, path: Path) -> None:
    """Write the report as one self-contained page."""
    page = (
        templates()
        .get_template(TEMPLATE)
        .render(
            report=report,
            rows=class_rows(report),
            areas=report.areas,
            pixels=int(report.accuracy.confusion.sum()),
            absent=absent_names(report),
            confusion_figure=confusion_figure(report.accuracy, report.scheme),
            area_figure=area_figure(report.areas, report.scheme) if report.areas else None,
            version=__version__,
        )
    )
    with whole_file(path) as partial:
        partial.write_text(page, encoding="utf-8")


def write_json(report: Report, path: Path) -> None:
    """Write the numbers of the report as JSON; null where a number is not defined."""
    result, areas = report.accuracy, report.areas
    data: dict[str, Any] = {
        "title": report.title,
        "engine": __version__,
        "unit": report.unit,
        "pixels": int(result.confusion.sum()),
        "overall_accuracy": result.overall,
        "average_accuracy": result.average,
        "miou": result.miou,
        "absent_classes": absent_names(report),
        "classes": class_rows(report),
        "confusion": {
            "rows": "map",
            "columns": "reference",
            "classes": report.scheme.names,
            "counts": result.confusion.tolist(),
        },
        "provenance": report.provenance,
        "notes": report.notes,
    }
    if areas is not None:
        data["area_weighted"] = {
            "overall_accuracy": areas.overall,
            "overall_accuracy_margin95": areas.overall_margin,
            "mapped_ha": float(areas.mapped.sum()),
        }
    with whole_file(path) as partial:
        partial.write_text(json.dumps(plain(data), indent=2, ensure_ascii=False), encoding="utf-8")


def class_rows(report: Report) -> list[dict[str, Any]]:
    """One row of numbers per class of the scheme."""
    result, areas = report.accuracy, report.areas
    rows = []
    for i, land_class in enumerate(report.scheme.classes):
        row: dict[str, Any] = {
            "code": land_class.code,
            "name": land_class.name,
            "color": land_class.color,
            "map_pixels": int(result.confusion[i].sum()),
            "reference_pixels": int(result.confusion[:, i].sum()),
            "precision": float(result.precision[i]),
            "recall": float(result.recall[i]),
            "commission_error": 1 - float(result.precision[i]),
            "omission_error": 1 - float(result.recall[i]),
            "iou": float(result.iou[i]),
            "f1": float(result.f1[i]),
        }
        if areas is not None:
            row |= {
                "mapped_ha": float(areas.mapped[i]),
                "estimated_ha": float(areas.estimated[i]),
                "margin95_ha": float(areas.margin[i]),
                "users_accuracy": float(areas.users[i]),
                "users_accuracy_margin95": float(areas.users_margin[i]),
                "producers_accuracy_area_weighted": float(areas.producers[i]),
            }
        rows.append(row)
    return rows


def absent_names(report: Report) -> list[str]:
    """Names of the classes that the reference does not have."""
    return [n for n, absent in zip(report.scheme.names, report.accuracy.absent, strict=True) if absent]


def plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _percent(value: float, digits: int = 1) -> str:
    return "–" if not np.isfinite(value) else f"{100 * value:.{digits}f} %"


def _hectares(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.1f}"


def _thousands(value: int) -> str:
    return f"{value:,}".replace(",", " ")
