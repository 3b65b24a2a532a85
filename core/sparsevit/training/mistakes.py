"""Which tags are wrong: the mistakes of people against what networks expect of a tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsevit.geodata.tile_index import ABSENT, PRESENT

SUREST = 0.99
"""Nothing is expected with more certainty: with 0.999 a few proper tags of development blocks were doubted."""
DOUBTFUL = 0.5
"""From which probability of being wrong on a tag is doubted."""
MOST_SWAPS = 3
"""In one tile; what would be more counts as left out and added."""
STEPS = 50
"""Of the search for the shares; four times as many found the same three digits on development blocks."""
HALF = 0.5
"""Counted beside the mistakes of each kind that are found: few tags do not prove that one is never made."""


@dataclass(frozen=True)
class Mistakes:
    """How often people make each mistake, as shares (0–1).

    Attributes:
        swapped: Of the classes that are in tiles: another is named in their place.
        left_out: Of the classes that are in tiles: they are not named.
        added: Of the classes that are not in tiles: they are named all the same.
    """

    swapped: float
    left_out: float
    added: float

    def weights(self) -> Tensor:
        """How much likelier than a proper tag each mistake is, to whoever holds both for equally probable `[3]`."""
        kept = 1 - self.swapped - self.left_out
        odds = [self.swapped / kept, self.left_out / (1 - self.added), self.added / kept]
        return torch.tensor(odds, dtype=torch.float64)

    def in_words(self) -> str:
        """What they mean."""
        return (
            f"of the classes in a tile {self.swapped:.1%} are named as another and {self.left_out:.1%} left out; "
            f"of those that are not there {self.added:.1%} are named"
        )


def wrong_probability(tags: Tensor, expected: Tensor) -> tuple[Tensor, Mistakes]:
    """How probable it is that each tag is wrong, and how often people seem to have erred.

    A class that is in a tile is named, or another is named in its place, or it is left out; one that is not is not
    named, or named all the same. How probable each of these is depends on how well it agrees with what is expected of
    the tile, and on how frequent it is; the frequencies are those that explain the tags of all tiles best (expectation
    maximisation, as in Dawid & Skene 1979). So an unusual tile is not doubted where hardly anybody errs, and a tag is
    where another class that seems to be missing would explain it.

    Args:
        tags: Of each class in each tile `[N, K]`: 1 present, 0 absent, -1 unknown.
        expected: Probability that the class is present, by somebody who does not know the tags of the tile `[N, K]`.

    Returns:
        Probabilities `[N, K]`, 0 for unknown tags; and how often each mistake was made.
    """
    likely = expected.double().clamp(1 - SUREST, SUREST)
    contrary = torch.where(tags == PRESENT, 1 - likely, likely)
    odds = contrary / (1 - contrary)
    named, unnamed = int((tags == PRESENT).sum()), int((tags == ABSENT).sum())
    mistakes = Mistakes(swapped=0.1, left_out=0.1, added=0.005)
    for _ in range(STEPS):
        found = _expected(mistakes.weights(), lambda w: log_evidence(tags, odds, w))
        swapped, left_out, added = found.tolist()
        there, not_there = named - added + left_out + 3 * HALF, unnamed - swapped - left_out + added + 2 * HALF
        mistakes = Mistakes((swapped + HALF) / there, (left_out + HALF) / there, (added + HALF) / not_there)
    return _expected(odds, lambda o: log_evidence(tags, o, mistakes.weights())), mistakes


def to_forget(tags: Tensor, wrong: Tensor) -> Tensor:
    """Which tags of training tiles are doubted, and not needed `[N, K]`: nothing should be learned from them.

    A class whose every tile is doubted keeps them: what a few right ones among many have in common can be learned.

    Args:
        tags: Of each class in each tile `[N, K]`.
        wrong: How probable it is that each is wrong `[N, K]`.
    """
    present, doubted = tags == PRESENT, wrong >= DOUBTFUL
    lost = ~(present & ~doubted).any(dim=0)
    return doubted & ~(present & lost)


def log_evidence(tags: Tensor, odds: Tensor, weights: Tensor) -> Tensor:
    """How well mistakes of all kinds and numbers explain the tags of each tile, against none `[N]`.

    Args:
        tags: `[N, K]`.
        odds: How much better than each tag its contrary agrees with what is expected `[N, K]`.
        weights: Those of `Mistakes` `[3]`.
    """
    swapped, left_out, added = weights
    unnamed = (tags == ABSENT).sum(dim=1)
    falsely_named = _ways(odds * (tags == PRESENT), added)
    meant = _ways(odds * (tags == ABSENT), left_out)
    evidence, weight = torch.zeros_like(odds[:, 0]), torch.ones_like(odds[:, 0])
    for swaps in range(MOST_SWAPS + 1):
        evidence = evidence + weight * falsely_named[swaps] * meant[swaps]
        # Each class may be named as any that is not there, and no two as the same.
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
