"""What per-pixel networks expect of tiles that they did not learn, to find wrong tags by.

A network that learned a wrong tag explains it somehow. Networks that learned the tags of other tiles do not: what they
hold improbable may be wrong (Northcutt et al. 2021, "Confident learning").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from lightning_fabric import Fabric
from torch import Tensor

from sparsevit.geodata.tile_index import UNKNOWN
from sparsevit.models.landcover import Architecture
from sparsevit.reporting import Reporter
from sparsevit.training.classifier import SPECTRAL_WIDTH, untrained
from sparsevit.training.loop import TrainingSettings
from sparsevit.training.losses import learning_slope
from sparsevit.training.mistakes import Mistakes, to_forget, wrong_probability
from sparsevit.training.phases import ClassifierSettings, ClassifierTraining
from sparsevit.training.scoring import map_tag_logits
from sparsevit.training.tiles import TaggedTiles, band_statistics

FOLDS, REPEATS = 3, 2
"""Parts of the training tiles, each judged by networks that learned the others; and how often parts are drawn."""
GENTLE = 1.5
"""Steepest slope they learn tags by (`losses.learning_slope`): with steeper ones they tell wrong tags less well."""
SHARPNESS = 1.5
"""Factor of the logits by which proper tags of development blocks, from a tenth of a tile, were explained best."""
LOOKS = 2
"""The networks of the first look learn the wrong tags of other tiles, too; those of the second fewer of them."""
SURELY_WRONG = 0.8
"""From which probability of being wrong the second look learns the contrary of a tag that it forgets."""


def find_mistakes(
    tiles: TaggedTiles,
    held_out: TaggedTiles | None,
    judge: Callable[[TaggedTiles, Reporter], Tensor],
    reporter: Reporter,
) -> tuple[Tensor, Mistakes]:
    """How probable it is that each tag is wrong, and how often people seem to have erred.

    Where the first look doubts tags, a second one learns what it believes of them, and judges the tags as they were
    given.

    Args:
        tiles: Training tiles.
        held_out: More tiles whose tags are judged; nothing is learned from them.
        judge: How probable classes are in the training tiles and then the held-out ones `[N + M, K]`, for whoever
            learned the training tiles with the tags that it is given.
        reporter: Progress.

    Returns:
        Probabilities of the tags of the training tiles, and then of the held-out ones `[N + M, K]`; the mistakes.
    """
    given = torch.cat([tiles.tags, held_out.tags]) if held_out else tiles.tags
    learned = tiles
    for look in range(LOOKS):
        part = reporter.part(look / LOOKS, (look + 1) / LOOKS, f"look {look + 1}")
        wrong, mistakes = wrong_probability(given, judge(learned, part))
        learned = replace(tiles, tags=believed(tiles.tags, wrong[: len(tiles)]))
        if torch.equal(learned.tags, tiles.tags):
            break
    return wrong, mistakes


def believed(tags: Tensor, wrong: Tensor) -> Tensor:
    """Tags `[N, K]` to learn from, by how probable it is that each is wrong: as given, unknown, or the contrary."""
    better = torch.where((wrong >= SURELY_WRONG) & (tags != UNKNOWN), 1 - tags, UNKNOWN)
    return torch.where(to_forget(tags, wrong), better, tags).to(tags.dtype)


def judge_tags(
    tiles: TaggedTiles,
    held_out: TaggedTiles | None,
    side: int,
    settings: ClassifierSettings,
    training: TrainingSettings,
    fabric: Fabric,
    reporter: Reporter,
) -> tuple[Tensor, Tensor]:
    """How probable classes are in tiles, as networks see it that learned other tiles.

    Args:
        tiles: Training tiles.
        held_out: More tiles to judge; all networks do.
        side: Side of a tile (pixels).
        settings: How a spectral network is trained.
        training: Optimiser, batch, seed.
        fabric: Device and precision.
        reporter: Progress.

    Returns:
        Probability that a class covers at least the presence threshold, of the training tiles `[N, K]` and of the
        held-out tiles `[M, K]`.
    """
    statistics = band_statistics(tiles.store)
    classes, networks = tiles.tags.shape[1], FOLDS * REPEATS
    architecture = Architecture(
        len(statistics[0]), classes, side, spectral_width=SPECTRAL_WIDTH, weights={"spectral": 1.0}
    )
    probability = torch.zeros(len(tiles), classes)
    of_held_out = torch.zeros(len(held_out) if held_out else 0, classes)
    generator = torch.Generator().manual_seed(training.seed)
    for repeat in range(REPEATS):
        fold = torch.randperm(len(tiles), generator=generator) % FOLDS
        for k in range(FOLDS):
            number = repeat * FOLDS + k
            part = reporter.part(number / networks, (number + 1) / networks, f"network {number + 1} of {networks}")
            seed = training.seed + number
            model = untrained(architecture, statistics, seed, fabric)
            run = ClassifierTraining(model, tiles.choose(fold != k), replace(training, seed=seed), fabric, None, GENTLE)
            run.spectral(settings, part)
            tiles = tiles.with_threshold(run.tiles.presence_threshold)  # if the first had to learn it: for all
            probability[fold == k] += _presence(run, tiles.choose(fold == k)) / REPEATS
            if held_out:
                of_held_out += _presence(run, held_out) / networks
    return probability, of_held_out


def _presence(run: ClassifierTraining, tiles: TaggedTiles) -> Tensor:
    """Probability of each class in tiles `[N, K]` after a training, whose weights of rare classes are undone."""
    threshold = run.tiles.presence_threshold
    tiles, slope = tiles.with_threshold(threshold), learning_slope(threshold, GENTLE)  # of the weights
    absent, present = run.weights.log().cpu()
    return torch.sigmoid(map_tag_logits(run.model, tiles, run.fabric, slope=slope) + absent - present)


def surer(probability: Tensor) -> Tensor:
    """What networks expect, as sure as it may be."""
    return torch.sigmoid(SHARPNESS * probability.logit(1e-6))
