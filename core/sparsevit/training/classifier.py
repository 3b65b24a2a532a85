"""From image-level labels to a pruned transformer and a spectral network, with the controls that make it honest."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

from sparsevit.errors import InputError
from sparsevit.models.landcover import Architecture, LandCoverModel, TagTransformer
from sparsevit.models.vit import REFERENCE_TILE, ViTConfig, preset_config
from sparsevit.models.weaktr import MAP_METHODS, WeakTr, WeakTrConfig, token_maps, weaktr_config
from sparsevit.reporting import Reporter
from sparsevit.training.head_budget import BudgetSettings, heads_to_keep, random_mask
from sparsevit.training.head_search import find_head_count
from sparsevit.training.loop import TrainingSettings
from sparsevit.training.metrics import TagScores
from sparsevit.training.phases import ClassifierSettings, ClassifierTraining
from sparsevit.training.scoring import vit_scores, vit_tag_logits
from sparsevit.training.start import Start
from sparsevit.training.tiles import TaggedTiles

SPECTRAL_WIDTH = 64
PATCH_TOLERANCE = 1.6
"""Factor by which patches may differ from the size asked for, so that a whole number of them makes a tile."""


@dataclass(frozen=True)
class TrainedClassifier:
    """A pruned classifier and what is known about it.

    Attributes:
        model: Transformer (pruned) and spectral network.
        presence_threshold: Share of a tile from which classes look tagged.
        head_mask: For each block, which heads survived.
        head_gates: P(open) of the same heads at the end of the gate phase; empty without one.
        scores: Scores on the validation tiles of the classifier; empty without validation tiles.
        controls: The same for `random_heads`, `all_heads`.
    """

    model: LandCoverModel
    presence_threshold: float
    head_mask: list[list[bool]]
    head_gates: list[list[float]]
    scores: TagScores | None
    controls: dict[str, TagScores]


def train_classifier(
    architecture: Architecture,
    statistics: tuple[Tensor, Tensor],
    tiles: TaggedTiles,
    validation: TaggedTiles | None,
    settings: ClassifierSettings,
    budget: BudgetSettings,
    training: TrainingSettings,
    fabric: Fabric,
    reporter: Reporter,
    folder: Path | None = None,
    start: Start | None = None,
) -> TrainedClassifier:
    """Train on tags: spectral network and threshold; dense transformer; number of heads; gates; the rest; controls.

    Args:
        architecture: Networks to train, before pruning.
        statistics: Mean and standard deviation of each band `[C]`.
        tiles: Training tiles.
        validation: Held-out tiles for the scores and the number of heads; without any there are no scores, and the
            training tiles decide about the heads.
        settings: Phases.
        budget: How many heads survive, and whether to train the controls.
        training: Optimiser, batch, seed.
        fabric: Device and precision.
        reporter: Progress and metrics.
        folder: Folder of checkpoints; none to keep none.
        start: See `untrained`.
    """
    model = untrained(architecture, statistics, training.seed, fabric, start)
    run = ClassifierTraining(model, tiles, training, fabric, folder)
    share = 0.55 if budget.controls else 0.9
    run.spectral(settings, reporter.part(0, 0.1, "spectral network"))
    validation = validation and validation.with_threshold(run.tiles.presence_threshold)
    validate = (lambda: vit_tag_logits(model, validation, fabric)[1]) if validation else None
    run.dense(settings.epochs, validate, reporter.part(0.1, 0.75 * share, "transformer"))
    assert model.vit is not None
    dense = copy.deepcopy(model.vit).eval().requires_grad_(False)
    heads = model.vit.heads
    choosing = reporter.part(0.75 * share, share, "choosing heads")
    if budget.heads_kept == 0:
        keep = find_head_count(run, dense, validation or run.tiles, settings, budget.heads_cost, choosing.part(0, 0.4))
        choosing = choosing.part(0.4, 1)
    else:
        keep = heads_to_keep(budget.heads_kept, sum(heads))
    mask, gates = [torch.ones(h, dtype=torch.bool) for h in heads], list[list[float]]()
    if keep < sum(heads):
        mask, gates = run.choose_heads(dense, keep, settings, choosing)
    scores = vit_scores(model, validation, fabric) if validation else None
    controls: dict[str, TagScores] = {}
    if budget.controls and validation and keep < sum(heads):
        controls = score_controls(run, dense, keep, validation, settings, reporter.part(share, 1))
    if isinstance(model.vit, WeakTr):
        set_peaks(model, model.vit, tiles, fabric)
    pruned = Architecture(**(vars(architecture) | {"vit": model.vit.config}))
    model.architecture = pruned
    threshold = run.tiles.presence_threshold
    return TrainedClassifier(model.eval(), threshold, [m.tolist() for m in mask], gates, scores, controls)


def score_controls(
    run: ClassifierTraining,
    dense: TagTransformer,
    keep: int,
    validation: TaggedTiles,
    settings: ClassifierSettings,
    reporter: Reporter,
) -> dict[str, TagScores]:
    """Scores of `random_heads`, as many as were kept, and of `all_heads`, both trained on as long as the gates were.

    Args:
        run: Training of the classifier.
        dense: The transformer with all heads.
        keep: Number of heads that were kept.
        validation: Held-out tiles.
        settings: Phases.
        reporter: Progress.
    """
    masks = {
        "random_heads": random_mask(dense.heads, keep, run.training.seed),
        "all_heads": [torch.ones(h, dtype=torch.bool) for h in dense.heads],
    }
    scores = {}
    for i, (name, mask) in enumerate(masks.items()):
        part = reporter.part(i / len(masks), (i + 1) / len(masks), f"control: {name}")
        vit = run.pruned(dense, mask, name, settings, settings.pruning_epochs, part)
        scores[name] = vit_scores(run.model, validation, run.fabric, vit)
    return scores


@torch.inference_mode()
def set_peaks(model: LandCoverModel, network: WeakTr, tiles: TaggedTiles, fabric: Fabric, batch: int = 64) -> None:
    """Measure how high the map of each class usually gets where it occurs: the mean over its tiles of the maximum."""
    network.eval()
    highest = []
    for positions in torch.arange(len(tiles)).split(batch):
        with fabric.autocast():
            output = network(model.normalise(tiles.store.batch(positions).to(fabric.device)))
        highest.append(torch.stack([token_maps(output, m).float().amax((2, 3)).cpu() for m in MAP_METHODS], dim=1))
    present = (tiles.tags == 1).float()[:, None]  # (N, 1, K)
    peaks = (torch.cat(highest) * present).sum(0) / present.sum(0).clamp_min(1)
    network.peaks.copy_(peaks)


def untrained(
    architecture: Architecture, statistics: tuple[Tensor, Tensor], seed: int, fabric: Fabric, start: Start | None = None
) -> LandCoverModel:
    """A model before training.

    Args:
        architecture: Its networks.
        statistics: Mean and standard deviation of each band `[C]`.
        seed: Of the random weights.
        fabric: Device and precision.
        start: What the transformer starts from; random weights if left out.
    """
    torch.manual_seed(seed)
    model = LandCoverModel(architecture)
    if start and model.vit is not None:
        start.give_to(model.vit)
    model.mean.copy_(statistics[0])
    model.std.copy_(statistics[1])
    fabric.to_device(model)
    return model


def architecture_for(
    channels: int,
    classes: int,
    tile: int,
    gsd: float,
    settings: ClassifierSettings,
    start: Start | None = None,
) -> Architecture:
    """The networks of a classifier: a transformer of the preset and the spectral network, equally weighted.

    Args:
        channels: Input bands.
        classes: Land-cover classes.
        tile: Side of a tile (pixels).
        gsd: Ground sampling distance (m).
        settings: Preset and patch size.
        start: Pretrained encoder, whose shape takes the place of the preset's.

    Raises:
        InputError: The preset, or the patches, need tiles of another size.
    """
    if start is None and settings.preset == "reference" and tile != REFERENCE_TILE:
        raise InputError(
            f"The preset 'reference' needs tiles of {REFERENCE_TILE} pixels, these have {tile}.",
            "preset",
            f"Cut tiles of {REFERENCE_TILE * gsd:g} m, or choose another preset.",
        )
    patch = fitting_patch(tile, gsd, settings)
    if start is None:
        gated = preset_config(settings.preset, channels, classes, tile, patch)
    else:
        gated = start.encoder.config(channels, classes, tile, patch)
    vit: ViTConfig | WeakTrConfig = gated
    if settings.network != "gated":
        vit = weaktr_config(gated, "faithful" if settings.network == "weaktr_faithful" else "repaired")
    return Architecture(channels, classes, tile, vit, SPECTRAL_WIDTH, "", {"vit": 0.5, "spectral": 0.5})


def fitting_patch(tile: int, gsd: float, settings: ClassifierSettings) -> int:
    """Side of a token's patch (pixels) near the one asked for, of which a whole number makes a tile.

    Args:
        tile: Side of a tile (pixels).
        gsd: Ground sampling distance (m).
        settings: Patch size (m), which the preset `reference` ignores.

    Raises:
        InputError: None is near: much smaller patches would be too many, much larger ones too coarse.
    """
    wanted = min(max(settings.patch_size_m / gsd, 1), tile)
    patch = min((p for p in range(1, tile + 1) if tile % p == 0), key=lambda p: abs(math.log(p / wanted)))
    if settings.preset != "reference" and not 1 / PATCH_TOLERANCE <= patch / wanted <= PATCH_TOLERANCE:
        near = round(wanted)
        raise InputError(
            f"Tiles of {tile} pixels cannot be cut into patches of about {settings.patch_size_m:g} m: those of "
            f"{patch * gsd:g} m come nearest.",
            "patch_size_m",
            f"Cut tiles of {max(round(tile / near), 1) * near * gsd:g} m.",
        )
    return patch
