"""Train a segmentation network on the pseudomasks, in rounds."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from sparsevit.errors import InputError
from sparsevit.geodata.legend import ClassScheme, parse_scheme
from sparsevit.geodata.tile_index import TileIndex, read_tile_index
from sparsevit.geodata.tile_masks import UNLABELLED, read_tile_masks
from sparsevit.jobs.base import Job, Result, absolute
from sparsevit.jobs.group import on_devices
from sparsevit.jobs.pseudomask import mask_name
from sparsevit.jobs.resumable import ResumableRequest, check_resumable, prepare_checkpoints
from sparsevit.models.hardware import HardwareSettings
from sparsevit.models.model_file import load_model, save_model
from sparsevit.models.vit import SparseViT
from sparsevit.outputs import check_distinct, check_writable
from sparsevit.reporting import Reporter
from sparsevit.training import group
from sparsevit.training.loop import TrainingSettings, make_fabric
from sparsevit.training.refinement import ROUND, Refinement, RefinementSettings, check_decoder, refine
from sparsevit.training.tagged import load_training_data


class RefineRequest(ResumableRequest):
    """Train a segmentation network on the pseudomasks, in rounds, guarded by held-out tags."""

    tiles: Path = Field(description="Tagged tile index (.gpkg) that the classifier was trained on.")
    classifier: Path = Field(
        description="Classifier (.safetensors) behind the pseudomasks; the guard compares with it."
    )
    pseudomask: Path = Field(
        description="Class raster written by `pseudomask` (or its folder for an index of patches)."
    )
    scene: list[Path] = Field(default=[], description="Rasters to read instead of those that the tile index names.")
    refinement: RefinementSettings = RefinementSettings()
    training: TrainingSettings = TrainingSettings()
    hardware: HardwareSettings = HardwareSettings()
    output: Path = Field(description="Model file to write (.safetensors).")


class RefineRound(Result):
    """One round of refinement."""

    round: int
    changed: float
    tag_loss: float
    accepted: bool


class RefineResult(Result):
    """The refined model and what each round did."""

    output: str
    evidence_tag_loss: float
    tag_loss: float
    refined_weight: float
    rounds: list[RefineRound]
    decision: str
    seconds: float


@on_devices
def run(request: RefineRequest, reporter: Reporter) -> RefineResult:
    """Refine and write the land-cover model."""
    started = time.monotonic()
    check_writable(request.output, (".safetensors",))
    check_distinct({"output": request.output}, [request.classifier])
    check_resumable(request)
    index = read_tile_index(request.tiles)
    classifier, card = load_model(request.classifier, "classifier", "classifier")
    check_decoder(request.refinement, isinstance(classifier.vit, SparseViT))
    if not request.pseudomask.exists():
        raise InputError(
            f"The pseudomask {request.pseudomask} does not exist.", "pseudomask", "Run 'pseudomask' first."
        )
    scheme = parse_scheme(card.scheme, str(request.classifier))
    card.check_gsd(index.gsd, f"The tile index {request.tiles.name}", "tiles")
    index = index.with_classes(scheme)  # in the order of the network's outputs
    data = load_training_data(index, request.scene, [], card.bands, reporter.part(0, 0.05))
    data = data.with_threshold(card.presence_threshold)
    masks = read_masks(data.train_index, request, scheme)
    prepare_checkpoints(request, f"{ROUND}*.checkpoint", reporter)
    refinement = refine(
        classifier,
        dict(card.architecture.weights),
        request.refinement,
        data.train,
        masks,
        data.validation,
        request.training,
        make_fabric(request.hardware),
        reporter.part(0.05, 1),
        request.checkpoints,
    )
    text = decision(refinement, request.refinement, "held-out" if data.validation else "training")
    reporter.log(text)
    metrics = card.metrics | {"evidence_tag_loss": refinement.evidence_tag_loss, "map_tag_loss": refinement.tag_loss}
    settings = card.settings | {"refinement": asdict(request.refinement)}
    changes = {"kind": "landcover", "metrics": metrics, "settings": settings}
    if group.rank() == 0:
        save_model(request.output, refinement.model, type(card)(**(vars(card) | changes)))
    return RefineResult(
        output=absolute(request.output),
        evidence_tag_loss=refinement.evidence_tag_loss,
        tag_loss=refinement.tag_loss,
        refined_weight=refinement.refined_weight,
        rounds=[
            RefineRound(round=r.number, changed=r.changed, tag_loss=r.tag_loss, accepted=r.accepted)
            for r in refinement.rounds
        ],
        decision=text,
        seconds=round(time.monotonic() - started, 1),
    )


def read_masks(index: TileIndex, request: RefineRequest, scheme: ClassScheme) -> Tensor:
    """Pseudomasks of the training tiles `[N, H, W]`: class index, -1 to ignore.

    Raises:
        InputError: The pseudomask does not cover the tiles, or holds none of the classes there.
    """
    table = {code: k for k, code in enumerate(scheme.codes)}

    def raster_of(rasters: list[Path]) -> Path:
        return request.pseudomask if index.scene else request.pseudomask / mask_name(rasters)

    masks = read_tile_masks(index, request.scene, raster_of, table, "pseudomask")
    if (masks == UNLABELLED).all():
        raise InputError(
            f"{request.pseudomask} labels no pixel of the training tiles.",
            "pseudomask",
            "Generate it for the same scene, or lower 'ignore_margin'.",
        )
    return torch.from_numpy(masks)


def decision(refinement: Refinement, settings: RefinementSettings, judges: str) -> str:
    """One sentence on what the guard decided, by the tags of held-out or of training tiles."""
    before, after, weight = refinement.evidence_tag_loss, refinement.tag_loss, refinement.refined_weight
    if weight == 0:
        return f"Refinement refused: no round explained the {judges} tags as well as the evidence ({before:.3f})."
    network = {"unet": "U-Net", "segmenter": "Segmenter"}[settings.decoder]
    return (
        f"Refinement accepted: {judges} tag loss {before:.3f} → {after:.3f}; the {network} has weight {weight:g} "
        "against the evidence."
    )


JOB = Job("refine", RefineRequest, run)
