"""The whole road in one request: from tags to a land-cover map."""

from __future__ import annotations

import time
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from sparsevit.assessment.reference import reference_on
from sparsevit.errors import InputError
from sparsevit.geodata.legend import load_scheme
from sparsevit.geodata.scene import open_scene
from sparsevit.geodata.tile_index import DOUBTS_FIELD, read_tile_index
from sparsevit.geodata.tiling import TilingSettings
from sparsevit.jobs import assess, predict, pseudomask, refine, review, tag, tiles, train
from sparsevit.jobs.base import Job, Request, Result, absolute
from sparsevit.labels.mapping import load_mapping
from sparsevit.labels.settings import TagSettings
from sparsevit.mapping.predict import MappingSettings
from sparsevit.models.edges import EdgeSettings
from sparsevit.models.hardware import HardwareSettings
from sparsevit.models.pretrained import PretrainedSettings
from sparsevit.outputs import check_distinct, check_writable
from sparsevit.reporting import Reporter
from sparsevit.training.classifier import fitting_patch
from sparsevit.training.head_budget import BudgetSettings
from sparsevit.training.loop import TrainingSettings
from sparsevit.training.phases import ClassifierSettings
from sparsevit.training.refinement import RefinementSettings, check_decoder
from sparsevit.weak.pseudomask import PseudomaskSettings, check_method


class MapRequest(Request):
    """From tags to a land-cover map: tiles, tags, training, pseudomasks, refinement, map and report."""

    scene: list[Path] = Field(
        description="Rasters of the scene. The first gives the grid; the others are warped to it."
    )
    band_names: list[str] = Field(
        default=[], description="Names of all bands in order (B02, VV, …), where the files carry none."
    )
    scheme: Path = Field(description="Class scheme (JSON or CSV): code, name, colour of each class.")
    source: Literal["text", "fields", "vector", "raster"] = Field(
        default="text",
        description="text / fields: polygons, one per tagged place, with a field such as 'forest, water' or one "
        "boolean field per class; vector: polygons or points with a class; raster: a categorical raster.",
    )
    layer: Path | None = Field(default=None, description="Vector layer with the tags.")
    field: str | None = Field(default=None, description="Field with the classes (text) or the class (vector).")
    raster: Path | None = Field(default=None, description="Categorical raster with the tags.")
    mapping: Path | dict[str, str | int | None] | None = Field(
        default=None,
        description="From values of the tag source to codes or names of the scheme (JSON or two-column CSV).",
    )
    classes: list[str] = Field(
        default=[], description="Only these classes of the scheme (names); all that occur if empty."
    )
    tiling: TilingSettings = TilingSettings()
    tagging: TagSettings = TagSettings()
    review: bool = Field(
        default=True,
        description="Review the tags first; learn nothing from those that are probably wrong (see `review`).",
    )
    classifier: ClassifierSettings = ClassifierSettings()
    pretrained: PretrainedSettings = PretrainedSettings()
    budget: BudgetSettings = BudgetSettings()
    training: TrainingSettings = TrainingSettings()
    pseudomasks: PseudomaskSettings = PseudomaskSettings()
    refinement: RefinementSettings = RefinementSettings()
    predicting: MappingSettings = MappingSettings()
    edge: EdgeSettings = EdgeSettings()
    hardware: HardwareSettings = HardwareSettings()
    reference: Path | None = Field(
        default=None,
        description="Reference for the report; without one there is no report, only scores on held-out tags.",
    )
    reference_field: str | None = Field(default=None, description="Class field of a vector reference.")
    reference_mapping: Path | dict[str, str | int | None] | None = Field(
        default=None,
        description="From values of the reference to codes or names of the scheme (JSON or two-column CSV).",
    )
    landcover: Path = Field(description="Land-cover raster to write (.tif).")
    tiles: Path = Field(description="Tile index to write (.gpkg).")
    pseudomask: Path = Field(description="Pseudomask raster to write (.tif).")
    confidence: Path = Field(description="Confidence raster of the map to write (.tif).")
    classifier_model: Path = Field(description="Classifier to write (.safetensors).")
    model: Path = Field(description="Land-cover model to write (.safetensors).")
    report: Path | None = Field(default=None, description="Report to write (.html); needs a reference.")
    report_json: Path | None = Field(default=None, description="The same numbers as JSON (.json); none if left out.")


class MapResult(Result):
    """Every output, and the numbers that tell how far to trust it."""

    landcover: str
    tiles: str
    pseudomask: str
    confidence: str
    classifier_model: str
    model: str
    report: str | None
    report_json: str | None
    doubted: int | None
    forgotten: int
    heads_kept: int
    heads_total: int
    macro_f1: float | None
    mean_ap: float | None
    macro_f1_random_heads: float | None
    decision: str
    refined_weight: float
    miou: float | None
    overall_accuracy: float | None
    class_shares: dict[str, float]
    seconds: float


def run(request: MapRequest, reporter: Reporter) -> MapResult:
    """Do the jobs one after another: what the user would do by hand."""
    started = time.monotonic()
    check_request(request)
    cut = tiles.run(
        _pick(tiles.TilesRequest, request, output=request.tiles, footprints=_footprints(request)),
        reporter.part(0, 0.02, "tiles"),
    )
    reporter.log(
        f"{cut.tiles} tiles: {cut.train} train, {cut.validation} validation, {cut.gap} in the gap between them."
    )
    index = read_tile_index(request.tiles)
    fitting_patch(int(index.frame["width"].iloc[0]), index.gsd, request.classifier)  # before the review, too
    tag.run(_pick(tag.TagRequest, request, output=None), reporter.part(0.02, 0.04, "tags"))
    tagged = 0.12 if request.review else 0.04
    reviewed = _review(request, reporter.part(0.04, tagged, "review")) if request.review else None
    trained = train.run(
        _pick(train.TrainRequest, request, scene=[], classes=[], output=request.classifier_model),
        reporter.part(tagged, 0.55, "train"),
    )
    painted = _pick(
        pseudomask.PseudomaskRequest,
        request,
        scene=[],  # as the tile index names it, with the names of its bands
        model=request.classifier_model,
        output=request.pseudomask,
        confidence=None,
    )
    pseudomask.run(painted, reporter.part(0.55, 0.6, "pseudomask"))
    refined = refine.run(
        _pick(refine.RefineRequest, request, scene=[], classifier=request.classifier_model, output=request.model),
        reporter.part(0.6, 0.9, "refine"),
    )
    mapped = predict.run(
        _pick(predict.PredictRequest, request, output=request.landcover), reporter.part(0.9, 0.98, "map")
    )
    assessed = _assess(request, reporter.part(0.98, 1, "assess"))
    reporter.progress(1.0)
    return MapResult(
        landcover=mapped.output,
        tiles=absolute(request.tiles),
        pseudomask=absolute(request.pseudomask),
        confidence=absolute(request.confidence),
        classifier_model=trained.output,
        model=refined.output,
        report=assessed.output if assessed else None,
        report_json=assessed.json_output if assessed else None,
        doubted=reviewed.doubted if reviewed else None,
        forgotten=reviewed.forgotten if reviewed else 0,
        heads_kept=trained.heads_kept,
        heads_total=trained.heads_total,
        macro_f1=trained.macro_f1,
        mean_ap=trained.mean_ap,
        macro_f1_random_heads=trained.macro_f1_random_heads,
        decision=refined.decision,
        refined_weight=refined.refined_weight,
        miou=assessed.miou if assessed else None,
        overall_accuracy=assessed.overall_accuracy if assessed else None,
        class_shares=mapped.class_shares,
        seconds=round(time.monotonic() - started, 1),
    )


def _review(request: MapRequest, reporter: Reporter) -> review.ReviewResult:
    """Forget doubted tags, and say so."""
    chosen = _pick(review.ReviewRequest, request, scene=[], output=None, seed=request.training.seed, forget=True)
    reviewed = review.run(chosen, reporter)
    if reviewed.forgotten:
        reporter.log(
            f"{reviewed.forgotten} tags look wrong, and nothing is learned from them. The field '{DOUBTS_FIELD}' of "
            f"{request.tiles} tells which they are: check them.",
            "warning",
        )
    return reviewed


def _assess(request: MapRequest, reporter: Reporter) -> assess.AssessResult | None:
    """The report; where it cannot be made after all, the map is worth having without it."""
    if request.reference is None:
        return None
    try:
        return assess.run(_assessment(request), reporter)
    except InputError as err:
        reporter.log(f"There is no report: {err}", "warning")
        return None


def _assessment(request: MapRequest) -> assess.AssessRequest:
    options = {
        "map": request.landcover,
        "reference": request.reference,
        "field": request.reference_field,
        "mapping": request.reference_mapping,
        "scheme": request.scheme,
        "output": request.report,
        "json_output": request.report_json,
    }
    return assess.AssessRequest.model_validate(options)


def check_request(request: MapRequest) -> None:
    """Refuse what cannot work at the end before any work starts.

    Raises:
        InputError: An output cannot be written or is the same file as another or an input; a report and its reference
            do not come together, or the reference cannot be used; network, maps and decoder do not fit each other.
    """
    files = {
        "landcover": (request.landcover, (".tif", ".tiff")),
        "tiles": (request.tiles, (".gpkg",)),
        "pseudomask": (request.pseudomask, (".tif", ".tiff")),
        "confidence": (request.confidence, (".tif", ".tiff")),
        "classifier_model": (request.classifier_model, (".safetensors",)),
        "model": (request.model, (".safetensors",)),
        "report": (request.report, (".html", ".htm")),
        "report_json": (request.report_json, (".json",)),
    }
    for name, (path, suffixes) in files.items():
        if path:
            check_writable(path, suffixes, name)
    inputs = (*request.scene, request.scheme, request.layer, request.raster, request.reference)
    check_distinct({name: path for name, (path, _) in files.items()}, inputs)
    class_tokens = request.classifier.network != "gated"
    check_method(request.pseudomasks.method, class_tokens)
    check_decoder(request.refinement, not class_tokens)
    if request.pseudomasks.method == "clusters" and request.budget.heads_kept == 0:
        raise InputError(
            "'clusters' needs heads in the last block; finding how few heads will do may leave none there.",
            "heads_kept",
            "Give a share, such as 0.3 as published.",
        )
    if (request.report or request.report_json) and not request.reference:
        raise InputError("A report needs a reference.", "reference", "Give one, or leave the report out.")
    if request.reference and not request.report:
        raise InputError("The reference is for a report.", "report", "Say where to write it, or leave both out.")
    if request.reference:
        _check_reference(request)


def _check_reference(request: MapRequest) -> None:
    scheme = load_scheme(request.scheme)
    with open_scene(request.scene, request.band_names or None) as scene:
        try:
            translation = load_mapping(request.reference_mapping, scheme)
            reference = assess.open_reference(_assessment(request), scene.grid, scheme, translation)
            with reference_on(reference, scene.grid):
                pass
        except InputError as err:  # `field` and `mapping` are those of the tags here
            parameter, hint = err.parameter, err.hint
            if parameter in ("field", "mapping"):
                hint = hint and hint.replace("'mapping'", "'reference_mapping'")
                parameter = f"reference_{parameter}"
            raise InputError(err.message, parameter, hint) from err


def _footprints(request: MapRequest) -> Path | None:
    """With tags in polygons, the polygons are the tiles."""
    return request.layer if request.source in ("text", "fields") else None


def _pick(kind: type[Any], request: BaseModel, **changes: Any) -> Any:
    """A job's request with the values that it shares with the whole road's request."""
    by_type = {type(value): value for value in vars(request).values() if is_dataclass(value)}
    values = {}
    for name, field in kind.model_fields.items():
        if name in changes:
            values[name] = changes[name]
        elif field.annotation in by_type:
            values[name] = by_type[field.annotation]
        elif name in vars(request):
            values[name] = getattr(request, name)
    return kind.model_validate(values)


JOB = Job("map", MapRequest, run)
