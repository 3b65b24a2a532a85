"""Study what attention heads are worth on the user's own tags."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, field_validator

from sparsevit.assessment.study_report import Spread, fewest_heads, write_study, write_study_json
from sparsevit.errors import InputError
from sparsevit.geodata.tile_index import read_tile_index
from sparsevit.geodata.tile_masks import UNLABELLED, read_tile_masks
from sparsevit.jobs.base import Job, Request, Result, absolute
from sparsevit.jobs.group import on_devices
from sparsevit.labels.cooccurrence import contrast_warnings
from sparsevit.labels.mapping import code_table, load_mapping
from sparsevit.models.hardware import HardwareSettings
from sparsevit.models.pretrained import PretrainedSettings
from sparsevit.outputs import check_writable
from sparsevit.reporting import Reporter
from sparsevit.training import group
from sparsevit.training.classifier import architecture_for
from sparsevit.training.head_study import ALL_HEADS, NO_HEADS, StudyPoint, Truth, study_heads
from sparsevit.training.loop import TrainingSettings, make_fabric
from sparsevit.training.phases import ClassifierSettings
from sparsevit.training.refinement import RefinementSettings, check_decoder
from sparsevit.training.start import read_start
from sparsevit.training.tagged import TrainingData, check_bands, load_training_data


class StudyHeadsRequest(Request):
    """Study heads: quality on held-out tiles against heads kept, for learned gates, Taylor importance and chance."""

    tiles: Path = Field(description="Tagged tile index (.gpkg) with held-out tiles.")
    scene: list[Path] = Field(default=[], description="Rasters to read instead of those that the tile index names.")
    classes: list[str] = Field(default=[], description="Only these classes (names); all tagged ones if empty.")
    bands: list[str] = Field(default=[], description="Only these bands (names); all if empty.")
    shares: list[float] = Field(
        default=[0.75, 0.5, 0.3, 0.2, 0.1, 0.05],
        description="Shares of the heads to keep, between 0 and 1; all heads, and none, are always part of the study.",
    )
    seeds: int = Field(default=3, ge=1, description="How often everything is trained, each time from another seed.")
    reference: Path | None = Field(
        default=None, description="Categorical raster of the held-out tiles, to score maps too; only tags if left out."
    )
    mapping: Path | dict[str, str | int | None] | None = Field(
        default=None,
        description="From values of the reference to codes or names of the scheme (JSON or two-column CSV).",
    )
    refined: bool = Field(
        default=False, description="Also refine every variant and score its final map; takes many times as long."
    )
    classifier: ClassifierSettings = ClassifierSettings()
    pretrained: PretrainedSettings = PretrainedSettings()
    refinement: RefinementSettings = RefinementSettings()
    training: TrainingSettings = TrainingSettings()
    hardware: HardwareSettings = HardwareSettings()
    output: Path = Field(description="Report to write (.html).")
    json_output: Path | None = Field(default=None, description="The same numbers as JSON (.json); none if left out.")

    @field_validator("shares")
    @classmethod
    def _between_0_and_1(cls, shares: list[float]) -> list[float]:
        if not all(0 < share < 1 for share in shares):
            raise ValueError("Shares lie between 0 and 1; all heads, and none, are always part of the study")
        return shares


class StudyHeadsResult(Result):
    """The curve, all heads and none first; the fewest heads whose macro-F1 is within half a point of all of them."""

    output: str
    json_output: str | None
    rows: list[Spread]
    heads_total: int
    macro_f1_all_heads: float
    fewest_heads: int | None
    fewest_share: float | None
    seconds: float


@on_devices
def run(request: StudyHeadsRequest, reporter: Reporter) -> StudyHeadsResult:
    """Train, choose, score, and write the report."""
    started = time.monotonic()
    check_writable(request.output, (".html", ".htm"))
    if request.json_output is not None:
        check_writable(request.json_output, (".json",), "json_output")
    if request.refined and request.reference is None:
        raise InputError("The final map can only be scored with a reference.", "reference", "Give one.")
    if request.refined:
        check_decoder(request.refinement, request.classifier.network == "gated")
    index = read_tile_index(request.tiles)
    if not request.scene:
        check_bands(index, request.bands)
    data = load_training_data(index, request.scene, request.classes, request.bands, reporter.part(0, 0.02))
    if data.validation is None:
        raise InputError(
            f"{request.tiles} holds no tagged tile out to score the heads on.",
            "tiles",
            "Cut tiles with a larger 'validation_share', and tag them.",
        )
    shares = sorted(set(request.shares), reverse=True)
    start = read_start(request.pretrained, data.bands, reporter)
    classes, settings = len(data.scheme.classes), request.classifier
    points = study_heads(
        architecture_for(len(data.bands), classes, data.side, data.gsd, settings, start),
        data.train,
        data.validation,
        _truth(request, data),
        shares,
        request.seeds,
        settings,
        request.training,
        make_fabric(request.hardware),
        reporter.part(0.02, 1),
        start,
    )
    rows = summary(points)
    provenance = {
        "Tile index": request.tiles.name,
        "Tiles": f"{len(data.train)} to learn from, {len(data.validation)} held out in blocks of their own",
        "Classes": ", ".join(data.scheme.names),
        "Bands": ", ".join(data.bands),
        "Transformer": f"{start.encoder.name if start else settings.preset}, {rows[0].heads} heads",
        "Reference": request.reference.name if request.reference else "none: only tags were scored",
    }
    if group.rank() == 0:
        cautions = contrast_warnings(data.train.tags.numpy(), data.scheme)
        write_study(rows, request.seeds, len(data.validation), provenance, cautions, request.output)
        if request.json_output:
            write_study_json(rows, [asdict(p) for p in points], provenance, request.json_output)
    fewest = fewest_heads(rows[1:], rows[0], "learned gates")
    return StudyHeadsResult(
        output=absolute(request.output),
        json_output=absolute(request.json_output) if request.json_output else None,
        rows=rows,
        heads_total=rows[0].heads,
        macro_f1_all_heads=rows[0].f1_mean,
        fewest_heads=fewest.heads if fewest else None,
        fewest_share=fewest.share if fewest else None,
        seconds=round(time.monotonic() - started, 1),
    )


def _truth(request: StudyHeadsRequest, data: TrainingData) -> Truth | None:
    """The reference of the held-out tiles.

    Raises:
        InputError: It does not label them.
    """
    path = request.reference
    if path is None:
        return None
    assert data.validation_index is not None
    table = code_table(load_mapping(request.mapping, data.scheme), data.scheme)
    masks = read_tile_masks(data.validation_index, request.scene, lambda _: path, table, "reference")
    if (masks == UNLABELLED).all():
        raise InputError(
            f"{path} has no class of the scheme on the held-out tiles.",
            "reference",
            "Check its extent and its values; translate them with 'mapping'.",
        )
    return Truth(torch.from_numpy(masks), request.refinement if request.refined else None)


def summary(points: list[StudyPoint]) -> list[Spread]:
    """Mean and standard deviation over seeds; all heads first, then none, then by share and method."""
    variants: dict[tuple[str, float], list[StudyPoint]] = {}
    for point in points:
        variants.setdefault((point.method, point.share), []).append(point)
    rows = []
    for (method, share), seeds in variants.items():
        values: dict[str, float | None] = {}
        for name, field in (("f1", "macro_f1"), ("ap", "mean_ap"), ("miou", "miou"), ("refined_miou",) * 2):
            measured = np.array([v for p in seeds if (v := getattr(p, field)) is not None])
            values[f"{name}_mean"] = float(measured.mean()) if len(measured) else None
            values[f"{name}_sd"] = float(measured.std(ddof=min(len(measured) - 1, 1))) if len(measured) else None
        rows.append(Spread(method, share, seeds[0].heads, **values))  # type: ignore[arg-type]
    return sorted(rows, key=lambda row: (row.method != ALL_HEADS, row.method != NO_HEADS))


JOB = Job("study heads", StudyHeadsRequest, run)
