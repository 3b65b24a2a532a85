"""Rounds of a segmentation network on pseudomasks, guarded by the tags of held-out tiles."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sparsevit.errors import InputError
from sparsevit.geodata.tile_masks import UNLABELLED
from sparsevit.models.landcover import LandCoverModel
from sparsevit.models.segmenter import segmenter_on
from sparsevit.models.unet import RefinementUNet
from sparsevit.models.vit import SparseViT
from sparsevit.reporting import Reporter
from sparsevit.settings import STRICT
from sparsevit.training.augment import random_dihedral
from sparsevit.training.checkpoint import fingerprint_of
from sparsevit.training.clipping import clipping_rule
from sparsevit.training.loop import Phase, TrainingSettings, fit, parameter_groups
from sparsevit.training.losses import balance, fraction_loss
from sparsevit.training.mask_loss import MaskLoss, allowed_by
from sparsevit.training.scoring import map_tag_logits
from sparsevit.training.tiles import TaggedTiles

ROUND = "round_"
"""Begin of the names of the rounds' checkpoints."""
BLENDS = (0.9, 0.8, 0.65, 0.5, 0.35)
"""Weights of the segmentation network against the evidence, in the order in which the guard prefers them.

Measured against the network alone, on development blocks and with other losses or epochs than the present ones: where
the evidence is good 0.8 gained 0.008 mIoU; where it is poor 0.8 lost up to 0.010, 0.9 gained up to 0.001 and lost up to
0.003.
"""


@dataclass(frozen=True, config=STRICT)
class RefinementSettings:
    """Rounds of a segmentation network on pseudomasks."""

    decoder: Literal["unet", "segmenter"] = Field(
        default="unet",
        description="unet: a U-Net with a skip at full resolution; segmenter: a mask transformer on the classifier's "
        "transformer, which sees no finer than a patch (Strudel et al. 2021).",
    )
    encoder: str = Field(default="resnet18", description="Encoder of the U-Net in segmentation_models_pytorch.")
    rounds: int = Field(default=2, ge=1, description="Rounds; each learns from the masks of the round before.")
    refine_epochs: int = Field(
        default=40, ge=1, description="Epochs of the first round; later rounds go on from it for half as many."
    )
    mask_weight: float = Field(
        default=0.3, gt=0, description="Weight of the cross-entropy on the masks, in which rare classes count more."
    )
    label_smoothing: float = Field(default=0.05, ge=0, lt=1, description="Label smoothing of the cross-entropy.")
    clip: bool = Field(
        default=False,
        description="Pixels whose loss on the masks is far above that of their surroundings, probable errors of the "
        "masks, teach nothing (gradient clipping, WeakTr).",
    )
    fraction_weight: float = Field(
        default=1.0, ge=0, description="Weight of the class-fraction loss that ties each tile's prediction to its tags."
    )
    ema_decay: float = Field(default=0.98, ge=0, lt=1, description="Decay per step of the averaged teacher.")
    min_confidence: float = Field(
        default=0.75, ge=0, lt=1, description="Pixels of the next round's masks below this probability are ignored."
    )
    stop_change: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="Stop when a smaller share of the masks' pixels, ignored ones included, changes in a round.",
    )


@plain_dataclass(frozen=True)
class Round:
    """What one round did: share of pixels that its masks change, held-out tag loss, whether it was accepted."""

    number: int
    changed: float
    tag_loss: float
    accepted: bool


@plain_dataclass(frozen=True)
class Refinement:
    """The refined model and its history.

    Attributes:
        model: Evidence networks and U-Net with the weights that explain the held-out tags best.
        evidence_tag_loss: Held-out tag loss of the evidence alone.
        tag_loss: That of `model`.
        rounds: What each round did.
    """

    model: LandCoverModel
    evidence_tag_loss: float
    tag_loss: float
    rounds: list[Round]

    @property
    def refined_weight(self) -> float:
        """Weight of the segmentation network in the model; 0 if every round was refused."""
        weights = self.model.architecture.weights
        return float(weights.get("unet", 0.0) + weights.get("segmenter", 0.0))


def refine(
    classifier: LandCoverModel,
    evidence_weights: dict[str, float],
    settings: RefinementSettings,
    tiles: TaggedTiles,
    masks: Tensor,
    validation: TaggedTiles | None,
    training: TrainingSettings,
    fabric: Fabric,
    reporter: Reporter,
    folder: Path | None = None,
) -> Refinement:
    """Train rounds of segmentation networks.

    Each round learns the masks with cross-entropy and label smoothing, see `MaskLoss`, plus the class-fraction loss
    that keeps each tile's prediction consistent with its tags; the first starts from fresh weights, the others go on
    from the round before. The averaged teacher is joined with the evidence, see `guarded`; a round that is refused
    ends the rounds. The next masks are the joint prediction restricted to the tags, without its uncertain pixels.

    Args:
        classifier: Model behind the pseudomasks.
        evidence_weights: Exponents of its networks in the evidence.
        settings: Rounds, losses, network.
        tiles: Training tiles.
        masks: Their pseudomasks `[N, H, W]`, class index or -1 (int16: they lie in memory).
        validation: Held-out tiles for the guard; the training tiles' tags stand in if there are none.
        training: Optimiser, batch, seed.
        fabric: Device and precision.
        reporter: Progress and metrics.
        folder: Folder of checkpoints; none to keep none.
    """
    judge = validation or tiles
    best = copy.deepcopy(classifier)
    best.architecture = replace(best.architecture, weights=evidence_weights)
    fabric.to_device(best)
    evidence = before = tile_losses(best, judge, fabric)
    rounds: list[Round] = []
    total = epochs_of(settings, settings.rounds)
    counts = [(masks == label).sum((1, 2)).tolist() for label in range(UNLABELLED, classifier.architecture.classes)]
    data = fingerprint_of(classifier, tiles.tags, tiles.presence_threshold, counts, evidence_weights, settings)
    for number in range(1, settings.rounds + 1):
        begun, done = epochs_of(settings, number - 1) / total, epochs_of(settings, number) / total
        part = reporter.part(begun, done, f"round {number}")
        candidate = copy.deepcopy(classifier)
        start = getattr(best, settings.decoder)
        network = train_decoder(candidate, settings, tiles, masks, training, fabric, number, part, start, folder, data)
        setattr(candidate, settings.decoder, network)
        blends = [joined(candidate, settings, evidence_weights, weight) for weight in BLENDS]
        losses = [tile_losses(blend, judge, fabric) for blend in blends]
        chosen, accepted = guarded(losses, evidence, before)
        candidate, loss = blends[chosen], losses[chosen]
        fresh = restricted_masks(candidate, tiles, settings.min_confidence, fabric)
        changed = int((fresh != masks).sum()) / masks.numel()
        rounds.append(Round(number, changed, float(loss.mean()), accepted))
        reporter.metric("held_out_tag_loss", number, float(loss.mean()))
        if accepted:
            best, before, masks = candidate, loss, fresh
        if not accepted or changed < settings.stop_change:
            break
    reporter.progress(1.0)
    return Refinement(best.eval(), float(evidence.mean()), float(before.mean()), rounds)


def guarded(losses: list[Tensor], evidence: Tensor, before: Tensor) -> tuple[int, bool]:
    """Which blend to take, and whether to accept it.

    A blend is fine if its mean loss is at most that of the evidence alone, and if it is as good as the best blend and
    as the round before, up to one standard error of the difference between tiles (Breiman et al. 1984): a few dozen
    held-out tiles cannot tell more. Of those that are fine the first one is taken.

    Args:
        losses: Loss of each held-out tile, of the blends in order of preference, each `[N]`.
        evidence: The same of the evidence alone.
        before: The same of the round before, or of the evidence in the first round.

    Returns:
        Position of the blend, the one with the smallest loss if none is fine; whether it is.
    """
    best = min(range(len(losses)), key=lambda k: float(losses[k].mean()))
    for k, loss in enumerate(losses):
        if loss.mean() <= evidence.mean() and as_good(loss, losses[best]) and as_good(loss, before):
            return k, True
    return best, False


def as_good(losses: Tensor, reference: Tensor) -> bool:
    """Whether losses of tiles `[N]` are at most one standard error of the difference above those of a reference."""
    difference = losses - reference
    error = difference.std(correction=0) / max(len(difference) - 1, 1) ** 0.5
    return bool(difference.mean() <= error)


def epochs_of(settings: RefinementSettings, rounds: int) -> int:
    """Epochs of the first `rounds` rounds together."""
    return sum(settings.refine_epochs if k == 0 else math.ceil(settings.refine_epochs / 2) for k in range(rounds))


def joined(
    model: LandCoverModel, settings: RefinementSettings, evidence: dict[str, float], weight: float
) -> LandCoverModel:
    """The model with its new network at a weight against its evidence; the networks are shared, not copied."""
    weights = {name: value * (1 - weight) for name, value in evidence.items()} | {settings.decoder: weight}
    view = copy.copy(model)
    config = model.segmenter.encoder.config if settings.decoder == "segmenter" and model.segmenter else None
    encoder = settings.encoder if settings.decoder == "unet" else ""
    view.architecture = replace(model.architecture, encoder=encoder, segmenter=config, weights=weights)
    return view


def fresh_decoder(model: LandCoverModel, settings: RefinementSettings) -> nn.Module:
    """An untrained U-Net, or an untrained mask transformer on a copy of the classifier's transformer.

    Raises:
        InputError: See `check_decoder`.
    """
    if settings.decoder == "unet":
        return RefinementUNet(settings.encoder, model.architecture.channels, model.architecture.classes)
    check_decoder(settings, isinstance(model.vit, SparseViT))
    assert isinstance(model.vit, SparseViT)
    return segmenter_on(model.vit)


def check_decoder(settings: RefinementSettings, gated: bool) -> None:
    """Refuse a network that cannot be built, before anything is read or trained.

    Args:
        settings: Which network.
        gated: Whether the classifier has a gated transformer.

    Raises:
        InputError: A Segmenter has no gated transformer to stand on, or the encoder of the U-Net is unknown.
    """
    if settings.decoder == "unet":
        RefinementUNet(settings.encoder, 1, 1)
    elif not gated:
        hint = "Choose 'unet', or train with the network 'gated'."
        raise InputError("A Segmenter stands on a gated transformer.", "decoder", hint)


def train_decoder(
    model: LandCoverModel,
    settings: RefinementSettings,
    tiles: TaggedTiles,
    masks: Tensor | None,
    training: TrainingSettings,
    fabric: Fabric,
    number: int,
    reporter: Reporter,
    start: nn.Module | None = None,
    folder: Path | None = None,
    data: str = "",
) -> nn.Module:
    """Train a segmentation network; returns its average over steps (the teacher).

    Without masks it learns from the tags alone: the control that shows what pseudomasks add. It goes on from the
    weights of `start`, in half the epochs at half the learning rate, or starts from fresh ones. For `folder` and `data`
    see `refine` and `Phase`.
    """
    torch.manual_seed(training.seed + number)
    network = copy.deepcopy(start) if start else fresh_decoder(model, settings)
    fabric.to_device(network)
    taught = Taught(network, settings.ema_decay)
    weights = balance(tiles.tags).to(fabric.device)
    threshold = tiles.presence_threshold
    mask_loss = None
    if masks is not None:
        classes, side = model.architecture.classes, model.architecture.tile
        rule = clipping_rule(classes, side) if settings.clip else None
        smoothing = settings.label_smoothing
        mask_loss = MaskLoss(
            masks, classes, presence_threshold=threshold, label_smoothing=smoothing, rule=rule, device=fabric.device
        )

    def loss(positions: Tensor) -> Tensor:
        tensors = [tiles.store.batch(positions)] + ([masks[positions]] if masks is not None else [])
        raw, *target = (t.to(fabric.device) for t in random_dihedral(tensors))
        tags = tiles.tags[positions].to(fabric.device)
        logits = network(model.normalise(raw))
        valid = torch.isfinite(raw).any(1)
        fraction = fraction_loss(logits, valid, tags, threshold, weights)
        if mask_loss is None:
            return fraction
        return settings.fraction_weight * fraction + settings.mask_weight * mask_loss(logits, target[0].long(), tags)

    phase = Phase(
        f"{ROUND}{number}",
        taught,
        loss,
        len(tiles),
        epochs_of(settings, 1) if start is None else epochs_of(settings, 2) - epochs_of(settings, 1),
        parameter_groups(network, training.weight_decay),
        after_step=lambda _: taught.teacher.update_parameters(network),
        learning_rate=training.learning_rate / (1 if start is None else 2),
        data=data,
    )
    fit(phase, training, fabric, reporter, folder)
    averaged: nn.Module = taught.teacher.module
    return averaged.eval()


class Taught(nn.Module):
    """A network and its average over steps, its teacher, resumed as one."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.network = network
        self.teacher = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


@torch.inference_mode()
def tile_losses(model: LandCoverModel, tiles: TaggedTiles, fabric: Fabric, batch: int = 64) -> Tensor:
    """What each tile adds to the loss of the predicted map's class fractions against known tags `[N]`.

    The mean over tiles is the mean binary cross-entropy over all known tags.
    """
    logits = map_tag_logits(model, tiles, fabric, batch)
    known = (tiles.tags >= 0).float()
    loss = F.binary_cross_entropy_with_logits(logits, tiles.tags.clamp_min(0).float(), reduction="none")
    return (loss * known).sum(1) * len(tiles) / known.sum().clamp_min(1)


@torch.inference_mode()
def restricted_masks(
    model: LandCoverModel, tiles: TaggedTiles, min_confidence: float, fabric: Fabric, batch: int = 64
) -> Tensor:
    """Masks `[N, H, W]` of the best class among each tile's tags; -1 below `min_confidence` and on nodata."""
    masks = torch.empty((len(tiles), *tiles.store.values.shape[2:]), dtype=torch.int16)
    for positions in torch.arange(len(tiles)).split(batch):
        raw = tiles.store.batch(positions).to(fabric.device)
        with fabric.autocast():
            log_p = model(raw).float()
        possible = allowed_by(tiles.tags[positions]).to(log_p.device)
        p, best = (log_p.exp() * possible[..., None, None]).max(dim=1)
        sure = (p >= min_confidence) & torch.isfinite(raw).any(1)
        masks[positions] = torch.where(sure, best, UNLABELLED).short().cpu()
    return masks
