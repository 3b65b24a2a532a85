"""What attention heads are worth: how well fewer and fewer of them explain held-out tags, chosen in three ways."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from lightning_fabric import Fabric
from torch import Tensor

from sparsevit.geodata.tile_masks import UNLABELLED
from sparsevit.models import torchvision_compat  # noqa: F401 (before torchmetrics, which imports torchvision)
from sparsevit.models.landcover import Architecture, LandCoverModel, TagTransformer
from sparsevit.reporting import Reporter
from sparsevit.training.classifier import untrained
from sparsevit.training.head_budget import best_mask, heads_to_keep, random_mask
from sparsevit.training.loop import TrainingSettings
from sparsevit.training.phases import ClassifierSettings, ClassifierTraining
from sparsevit.training.refinement import RefinementSettings, refine, restricted_masks
from sparsevit.training.scoring import vit_scores
from sparsevit.training.start import Start
from sparsevit.training.tiles import TaggedTiles, band_statistics

from torchmetrics.functional.classification import multiclass_jaccard_index  # isort: skip

ALL_HEADS, NO_HEADS = "all heads", "no heads"
METHODS = ("learned gates", "Taylor importance", "random heads")
SPECTRAL_SHARE, REFINE_EPOCH_COST = 0.1, 5
"""Parts of the progress bar: the spectral network of a seed; an epoch of the U-Net against one of the transformer."""


@dataclass(frozen=True)
class Truth:
    """Reference masks of held-out tiles `[N, H, W]`: class index, -1 where unknown; and how to refine, if at all."""

    masks: Tensor
    refinement: RefinementSettings | None


@dataclass(frozen=True)
class StudyPoint:
    """One network with some of its heads.

    Attributes:
        seed: Seed of everything random.
        method: How the heads were chosen.
        share: Share of the heads asked for (0–1).
        heads: Number of heads.
        macro_f1: Macro-F1 of the tags of held-out tiles.
        mean_ap: Their mean average precision.
        tag_loss: Their loss.
        miou: mIoU of the joint evidence of transformer and spectra on held-out tiles; none without a reference.
        refined_miou: The same of the refined model; none unless asked for.
    """

    seed: int
    method: str
    share: float
    heads: int
    macro_f1: float
    mean_ap: float
    tag_loss: float
    miou: float | None = None
    refined_miou: float | None = None


def study_heads(
    architecture: Architecture,
    tiles: TaggedTiles,
    validation: TaggedTiles,
    truth: Truth | None,
    shares: list[float],
    seeds: int,
    settings: ClassifierSettings,
    training: TrainingSettings,
    fabric: Fabric,
    reporter: Reporter,
    start: Start | None = None,
) -> list[StudyPoint]:
    """Train one dense transformer per seed, and go on with fewer and fewer of its heads.

    All variants, those with all heads and with none included, are trained on from the same dense weights, by the same
    losses and for as many epochs. What attention is worth shows where there is none: patches then see no more of each
    other than the stem does, and class tokens see none, so that they say the same of every tile. That moves the F1 of
    the tags, though not their average precision. Nothing is chosen by the held-out tiles.

    Args:
        architecture: Networks before pruning.
        tiles: Training tiles.
        validation: Held-out tiles.
        truth: Reference of the held-out tiles; none to score the tags alone.
        shares: Shares of the heads (0–1).
        seeds: Number of seeds, from that of `training`.
        settings: The phases.
        training: Optimiser, batch, first seed.
        fabric: Device and precision.
        reporter: Progress.
        start: What the dense transformers start from; random weights if left out.
    """
    points: list[StudyPoint] = []
    for k in range(seeds):
        part = reporter.part(k / seeds, (k + 1) / seeds, f"seed {k + 1} of {seeds}")
        study = SeedStudy(architecture, tiles, validation, truth, settings, training.seed + k, training, fabric, start)
        points += study.run(shares, part)
    reporter.progress(1.0)
    return points


class SeedStudy:
    """The variants of one seed."""

    def __init__(
        self,
        architecture: Architecture,
        tiles: TaggedTiles,
        validation: TaggedTiles,
        truth: Truth | None,
        settings: ClassifierSettings,
        seed: int,
        training: TrainingSettings,
        fabric: Fabric,
        start: Start | None = None,
    ) -> None:
        self.tiles, self.validation, self.truth, self.settings, self.fabric = tiles, validation, truth, settings, fabric
        self.training = replace(training, seed=seed)
        self.model = untrained(architecture, band_statistics(tiles.store), seed, fabric, start)
        self.phases = ClassifierTraining(self.model, tiles, self.training, fabric, None)

    def run(self, shares: list[float], reporter: Reporter) -> Iterator[StudyPoint]:
        """Yield one point for all heads, one for none, and one per share and method."""
        settings, truth = self.settings, self.truth
        tail = settings.pruning_epochs
        if truth and truth.refinement:
            tail += REFINE_EPOCH_COST * truth.refinement.refine_epochs
        chosen = ((method, share) for share in shares for method in METHODS)
        wanted = [(ALL_HEADS, 1.0), (NO_HEADS, 0.0), *chosen]
        dense_share = settings.epochs / (settings.epochs + len(wanted) * tail)
        begun = 0.0
        if truth or not self.tiles.threshold_known:
            begun = SPECTRAL_SHARE * dense_share
            self.phases.spectral(settings, reporter.part(0, begun))
        self.tiles = self.phases.tiles
        self.validation = self.validation.with_threshold(self.tiles.presence_threshold)
        self.phases.dense(settings.epochs, None, reporter.part(begun, dense_share, "all heads"))
        assert self.model.vit is not None
        dense = copy.deepcopy(self.model.vit).eval().requires_grad_(False)
        importance = self.phases.importance(dense)
        total, learned = sum(dense.heads), settings.pruning_epochs / tail
        for k, (method, share) in enumerate(wanted):
            span = (1 - dense_share) / len(wanted)
            name = f"{method}, {share:.0%}" if method in METHODS else method
            part = reporter.part(dense_share + k * span, dense_share + (k + 1) * span, name)
            keep = heads_to_keep(share, total) if share else 0
            vit = self.variant(dense, importance, method, keep, part.part(0, learned))
            yield self.point(vit, method, share, part.part(learned, 1))

    def variant(
        self, dense: TagTransformer, importance: list[Tensor], method: str, keep: int, reporter: Reporter
    ) -> TagTransformer:
        """The transformer with all heads, none, or `keep` ones that a method chose; trained on."""
        if method == "learned gates":
            self.model.vit = copy.deepcopy(dense).requires_grad_(True)
            self.phases.choose_heads(dense, keep, self.settings, reporter)
            return self.model.vit
        chance = method == "random heads"
        mask = random_mask(dense.heads, keep, self.training.seed) if chance else best_mask(importance, keep)
        return self.phases.pruned(dense, mask, method, self.settings, self.settings.pruning_epochs, reporter)

    def point(self, vit: TagTransformer, method: str, share: float, reporter: Reporter) -> StudyPoint:
        """Score a variant."""
        model = copy.deepcopy(self.model)
        model.vit = vit
        model.architecture = replace(model.architecture, vit=vit.config)
        scores = vit_scores(model, self.validation, self.fabric)
        miou = refined = None
        if self.truth:
            miou = map_miou(model, self.validation, self.truth.masks, self.fabric)
            if self.truth.refinement:
                refined = self._refined(model.eval().requires_grad_(False), self.truth, reporter)
        kept = sum(vit.heads)
        f1, ap, loss = scores.macro_f1, scores.mean_ap, scores.tag_loss
        return StudyPoint(self.training.seed, method, share, kept, f1, ap, loss, miou, refined)

    def _refined(self, model: LandCoverModel, truth: Truth, reporter: Reporter) -> float:
        assert truth.refinement is not None
        masks = restricted_masks(model, self.tiles, truth.refinement.min_confidence, self.fabric)
        weights = dict(model.architecture.weights)
        refinement = refine(
            model,
            weights,
            truth.refinement,
            self.tiles,
            masks,
            self.validation,
            self.training,
            self.fabric,
            reporter,
        )
        return map_miou(refinement.model, self.validation, truth.masks, self.fabric)


@torch.inference_mode()
def map_miou(model: LandCoverModel, tiles: TaggedTiles, masks: Tensor, fabric: Fabric, batch: int = 64) -> float:
    """Mean IoU of the predicted map of tiles over the classes that their reference has.

    Args:
        model: The model.
        tiles: Tiles.
        masks: Their reference `[N, H, W]`, -1 where unknown.
        fabric: Device and precision.
        batch: Tiles per forward pass.
    """
    model.eval()
    best = []
    for positions in torch.arange(len(tiles)).split(batch):
        with fabric.autocast():
            best.append(model(tiles.store.batch(positions).to(fabric.device)).argmax(1).cpu())
    classes = model.architecture.classes
    iou = multiclass_jaccard_index(torch.cat(best), masks, classes, average="none", ignore_index=UNLABELLED)
    seen = torch.bincount(masks[masks != UNLABELLED], minlength=classes) > 0
    return float(iou[seen].mean())
