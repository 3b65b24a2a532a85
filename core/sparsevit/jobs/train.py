"""Train the gated vision transformer and the spectral network on image-level labels."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from pydantic import Field

from sparsevit.geodata.tile_index import read_tile_index
from sparsevit.jobs.base import Job, Result, absolute
from sparsevit.jobs.group import on_devices
from sparsevit.jobs.resumable import ResumableRequest, check_resumable, prepare_checkpoints
from sparsevit.labels.cooccurrence import contrast_warnings
from sparsevit.models.hardware import HardwareSettings
from sparsevit.models.model_file import ModelCard, parameter_count, save_model
from sparsevit.models.pretrained import PretrainedSettings
from sparsevit.outputs import check_writable
from sparsevit.reporting import Reporter
from sparsevit.training import group
from sparsevit.training.checkpoint import fingerprint
from sparsevit.training.classifier import TrainedClassifier, architecture_for, train_classifier
from sparsevit.training.head_budget import BudgetSettings
from sparsevit.training.loop import TrainingSettings, make_fabric
from sparsevit.training.phases import ClassifierSettings
from sparsevit.training.start import Start, read_start
from sparsevit.training.tagged import TrainingData, check_bands, load_training_data
from sparsevit.training.tiles import band_statistics


class TrainRequest(ResumableRequest):
    """Train the classifier on tagged tiles: gated vision transformer and spectral network."""

    tiles: Path = Field(description="Tagged tile index (.gpkg).")
    scene: list[Path] = Field(default=[], description="Rasters to read instead of those that the tile index names.")
    classes: list[str] = Field(default=[], description="Only these classes (names); all tagged ones if empty.")
    bands: list[str] = Field(default=[], description="Only these bands (names); all if empty.")
    classifier: ClassifierSettings = ClassifierSettings()
    pretrained: PretrainedSettings = PretrainedSettings()
    budget: BudgetSettings = BudgetSettings()
    training: TrainingSettings = TrainingSettings()
    hardware: HardwareSettings = HardwareSettings()
    output: Path = Field(description="Model file to write (.safetensors).")


class TrainResult(Result):
    """The trained classifier and how well it explains the tags of the validation blocks."""

    output: str
    classes: list[str]
    bands: list[str]
    parameters: int
    heads_kept: int
    heads_total: int
    training_tiles: int
    validation_tiles: int
    presence_threshold: float
    macro_f1: float | None
    mean_ap: float | None
    tag_loss: float | None
    macro_f1_random_heads: float | None
    macro_f1_all_heads: float | None
    seconds: float


@on_devices
def run(request: TrainRequest, reporter: Reporter) -> TrainResult:
    """Train a classifier and write its model file."""
    started = time.monotonic()
    check_writable(request.output, (".safetensors",))
    check_resumable(request)
    index = read_tile_index(request.tiles)
    if not request.scene:
        check_bands(index, request.bands)
    data = load_training_data(index, request.scene, request.classes, request.bands, reporter.part(0, 0.05))
    cautions = contrast_warnings(data.train.tags.numpy(), data.scheme)
    for text in cautions:
        reporter.log(f"Training tiles: {text}", "warning")
    settings = request.classifier
    start = read_start(request.pretrained, data.bands, reporter)
    architecture = architecture_for(len(data.bands), len(data.scheme.classes), data.side, data.gsd, settings, start)
    prepare_checkpoints(request, "*.checkpoint", reporter)  # those of a refinement, too: it was of another classifier
    trained = train_classifier(
        architecture,
        band_statistics(data.train.store),
        data.train,
        data.validation,
        settings,
        request.budget,
        request.training,
        make_fabric(request.hardware),
        reporter.part(0.05, 1),
        request.checkpoints,
        start,
    )
    card = _card(request, data, trained, start, cautions)
    if group.rank() == 0:
        save_model(request.output, trained.model, card)
    return TrainResult(
        output=absolute(request.output),
        classes=data.scheme.names,
        bands=data.bands,
        parameters=parameter_count(trained.model),
        heads_kept=card.heads_kept,
        heads_total=card.heads_total,
        training_tiles=len(data.train),
        validation_tiles=len(data.validation) if data.validation else 0,
        presence_threshold=trained.presence_threshold,
        seconds=round(time.monotonic() - started, 1),
        **_metrics(trained),
    )


def _card(
    request: TrainRequest, data: TrainingData, trained: TrainedClassifier, start: Start | None, cautions: list[str]
) -> ModelCard:
    """What the model file tells of the classifier."""
    return ModelCard(
        kind="classifier",
        architecture=trained.model.architecture,
        bands=data.bands,
        gsd=data.gsd,
        scheme=data.scheme.to_json(),
        presence_threshold=trained.presence_threshold,
        head_mask=trained.head_mask,
        training_data=fingerprint(data.train.tags.tolist(), data.train_index.scene, data.bands),
        metrics={k: v for k, v in _metrics(trained).items() if v is not None},
        settings={
            "classifier": asdict(request.classifier),
            "encoder": start.encoder.name if start else "",
            "budget": asdict(request.budget),
            "training": asdict(request.training),
        },
        head_gates=trained.head_gates,
        cautions=cautions,
    )


def _metrics(trained: TrainedClassifier) -> dict[str, float | None]:
    scores, controls = trained.scores, trained.controls
    return {
        "macro_f1": scores.macro_f1 if scores else None,
        "mean_ap": scores.mean_ap if scores else None,
        "tag_loss": scores.tag_loss if scores else None,
        **{f"macro_f1_{n}": controls[n].macro_f1 if n in controls else None for n in ("random_heads", "all_heads")},
    }


JOB = Job("train", TrainRequest, run)
