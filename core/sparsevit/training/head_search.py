"""How few heads will do: the smallest share of them that costs next to nothing on held-out tags."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable

from sparsevit.models.landcover import TagTransformer
from sparsevit.reporting import Reporter
from sparsevit.training.head_budget import best_mask, heads_to_keep
from sparsevit.training.phases import ClassifierSettings, ClassifierTraining
from sparsevit.training.scoring import vit_scores
from sparsevit.training.tiles import TaggedTiles

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75)
"""Shares of the heads that are tried; all of them if none of these will do."""
TRIAL_STEPS = 60
"""Steps that each number of heads gets to show what it costs; all heads get as many.

With half as many, few heads have not yet learned their tags again: on the 118 tiles of the sample the macro-F1 of 7
heads on these tags was 0.963 after 32 steps and 0.991 after 64, that of all heads 0.997.
"""


def find_head_count(
    phases: ClassifierTraining,
    dense: TagTransformer,
    judge: TaggedTiles,
    settings: ClassifierSettings,
    cost: float,
    reporter: Reporter,
) -> int:
    """The number of heads to keep, by bisection over `SHARES`.

    A number is tried with the heads of the highest Taylor importance, trained on for a few epochs beside the dense
    transformer. Which heads stay in the end is left to the gates, which take longer.

    Args:
        phases: Training of the classifier.
        dense: The transformer with all heads, trained.
        judge: Tiles whose tags decide; held-out ones, for a choice that holds elsewhere.
        settings: How the trials stay close to the dense transformer; a trial has no more epochs than gates and
            fine-tuning together.
        cost: Macro-F1 that fewer heads may cost.
        reporter: Progress.
    """
    total = sum(dense.heads)
    counts = sorted({heads_to_keep(share, total) for share in SHARES} | {total})
    steps = math.ceil(len(phases.tiles) / phases.training.batch)
    epochs = min(math.ceil(TRIAL_STEPS / steps), settings.pruning_epochs)
    importance = phases.importance(dense)
    trials = 1 + (len(counts) - 1).bit_length()  # one for all heads, the others for the bisection
    scores: dict[int, float] = {}

    def macro_f1(keep: int) -> float:
        part = reporter.part(len(scores) / trials, (len(scores) + 1) / trials, f"trying {keep} heads")
        mask = best_mask(importance, keep)
        vit = phases.pruned(dense, mask, f"trial_{keep}_heads", settings, epochs, part)
        scores[keep] = vit_scores(phases.model, judge, phases.fabric, vit).macro_f1
        return scores[keep]

    keep = fewest(counts, macro_f1, cost)
    tried = ", ".join(f"{count}: {scores[count]:.3f}" for count in sorted(scores))
    reporter.log(f"{keep} of {total} heads will do. Macro-F1 of the tags after a trial, by number of heads: {tried}.")
    reporter.progress(1.0)
    return keep


def fewest(counts: list[int], macro_f1: Callable[[int], float], cost: float) -> int:
    """The smallest number of heads whose macro-F1 is at most `cost` below that of all of them, by bisection.

    Args:
        counts: Numbers of heads, rising; the last one is all of them.
        macro_f1: Macro-F1 with so many heads, which ought to rise with their number. Asked once for a number.
        cost: Macro-F1 that fewer heads may cost.
    """
    *fewer, total = counts
    wanted = macro_f1(total) - cost
    return counts[bisect_left(fewer, True, key=lambda keep: macro_f1(keep) >= wanted)]
