"""Which tags are wrong: the mistakes of people against what networks expect of a tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sparsevit.geodata.tile_index import ABSENT, PRESENT, UNKNOWN

SUREST = 0.98
"""Nothing is expected with more certainty than this: networks that saw some dozen tiles of a class are not surer."""
DOUBTFUL = 0.5
"""From which probability on a tag is rather wrong than right."""
MOST_SWAPS = 3
"""In one tile."""
STEPS = 100
HALF = 0.5
"""Mistakes of each kind beside those that are found (Jeffreys' prior): few tags do not prove that one never happens."""


@dataclass(frozen=True)
class Mistakes:
    """How often people make a mistake, against how often they do not (odds).

    Attributes:
        swapped: A class is named in place of another that is there; for each named class.
        added: A class is named that is not there; for each named class.
        left_out: A class that is there is not named; for each class that is not named.
    """

    swapped: float
    added: float
    left_out: float

    def in_words(self) -> str:
        """What they mean, as shares."""
        named = 1 + self.swapped + self.added
        return (
            f"about {self.swapped / named:.0%} of the named classes stand for another and {self.added / named:.0%} "
            f"are not there; {self.left_out / (1 + self.left_out):.0%} of the classes that are not named are there"
        )


def wrong_probability(tags: Tensor, expected: Tensor) -> tuple[Tensor, Mistakes]:
    """How probable it is that each tag is wrong, and how often people seem to have erred.

    A class is named properly, or in place of another, or without reason; one that is not named was left out properly,
    or not, or is the one that another stands for. How probable each of these is depends on how well it agrees with
    what is expected of the tile and on how frequent it is; the frequencies are those that explain the tags of all tiles
    best (expectation maximisation, as in Dawid & Skene 1979). So an unusual tile is not doubted where hardly anybody
    errs, and a tag is where another class that seems to be missing would explain it.

    Args:
        tags: Of each class in each tile `[N, K]`: 1 present, 0 absent, -1 unknown.
        expected: Probability that the class is present, by somebody who does not know the tags of the tile `[N, K]`.

    Returns:
        Probabilities `[N, K]`, 0 for unknown tags; and how often each mistake was made.
    """
    likely = expected.double().clamp(1 - SUREST, SUREST)
    contrary = torch.where(tags == PRESENT, 1 - likely, likely)
    odds = contrary / (1 - contrary) * (tags != UNKNOWN)
    named, unnamed = (tags == PRESENT).sum(), (tags == ABSENT).sum()
    rates = torch.tensor([0.1, 0.02, 0.02], dtype=torch.float64)
    for _ in range(STEPS):
        swapped, added, left_out = _expected(rates, partial(log_evidence, tags, odds))
        proper, properly_unnamed = named - swapped - added, unnamed - swapped - left_out
        rates = torch.stack(
            [
                (swapped + HALF) / (proper + HALF),
                (added + HALF) / (proper + HALF),
                (left_out + HALF) / (properly_unnamed + HALF),
            ]
        )
    wrong = _expected(odds, lambda o: log_evidence(tags, o, rates))
    return wrong, Mistakes(*rates.tolist())


def log_evidence(tags: Tensor, odds: Tensor, rates: Tensor) -> Tensor:
    """How well mistakes of all kinds and numbers explain the tags of each tile, against none `[N]`.

    Args:
        tags: `[N, K]`.
        odds: How much better than each tag its contrary agrees with what is expected `[N, K]`; 0 for unknown tags.
        rates: Those of `Mistakes`, in their order `[3]`.
    """
    swapped, added, left_out = rates
    unnamed = (tags == ABSENT).sum(dim=1)
    falsely_named = _ways(odds * (tags == PRESENT), added)
    meant = _ways(odds * (tags == ABSENT), left_out)
    evidence, weight = torch.zeros_like(odds[:, 0]), torch.ones_like(odds[:, 0])
    for swaps in range(MOST_SWAPS + 1):
        evidence = evidence + weight * falsely_named[swaps] * meant[swaps]
        # Each class may stand for any that is not named, and no two for the same.
        weight = weight * swapped * (swaps + 1) / (unnamed - swaps).clamp_min(1)
    return evidence.log()


def _ways(odds: Tensor, single: Tensor) -> list[Tensor]:
    """Weight of all choices of 0, 1, … classes that take part in swaps; others may be mistakes of their own `[N]`."""
    ways = [torch.ones_like(odds[:, 0]), *(torch.zeros_like(odds[:, 0]) for _ in range(MOST_SWAPS))]
    for column in odds.unbind(dim=1):
        alone = 1 + single * column
        ways = [ways[0] * alone, *(ways[k] * alone + ways[k - 1] * column for k in range(1, MOST_SWAPS + 1))]
    return ways


def _expected(weights: Tensor, evidence: Callable[[Tensor], Tensor]) -> Tensor:
    """How many of the mistakes that carry each weight are expected: a derivative by its logarithm (Darwiche 2003)."""
    weights = weights.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(evidence(weights).sum(), weights)
    return gradient * weights.detach()
