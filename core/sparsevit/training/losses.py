"""Losses from image-level labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SLOPE = 3.0
"""Slope of a tag's logit in the logarithm of the class fraction."""
SLOPE_OF_SHARE = 30.0
"""Slope of a tag's logit in the class fraction itself that networks learn small presence thresholds by."""


def class_fractions(log_probabilities: Tensor, weight: Tensor) -> Tensor:
    """Share of each class in each tile `[B, K]`.

    Args:
        log_probabilities: `[B, K, h, w]`, normalised over classes.
        weight: Valid share of each pixel or token `[B, h, w]`.
    """
    p = log_probabilities.float().exp()
    return (p * weight[:, None]).sum((2, 3)) / weight.sum((1, 2)).clamp_min(1e-6)[:, None]


def tag_probability(fractions: Tensor, presence_threshold: float | Tensor, slope: float = SLOPE) -> Tensor:
    """Logit of the tag that a class fraction implies: slope · (ln p̄ − ln τ).

    A tag says "covers at least τ of the tile"; the logit is 0 exactly there, so that the loss calibrates extent,
    which max or log-sum-exp pooling does not.
    """
    return slope * (fractions.clamp_min(1e-5).log() - torch.as_tensor(presence_threshold).log())


def learning_slope(presence_threshold: float, most: float = SLOPE) -> float:
    """Slope by which a network learns tags from a threshold τ: 30 τ, that is, 3 for a tenth, and `most` at most.

    A steep slope has nothing left to say about a class as soon as it covers a few τ; where τ is small, a class that
    occurs in nearly all tiles then swallows those that occur with it. On two sets of development blocks tagged from
    2 %, slopes from 0.5 to 1 made better maps than 1.8 and 3; from 10 %, 1.5 was no better than 3.
    """
    return min(SLOPE_OF_SHARE * presence_threshold, most)


def tag_loss(logits: Tensor, tags: Tensor, class_weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of tag logits against known tags.

    Args:
        logits: `[B, K]`.
        tags: 1 present, 0 absent, -1 unknown `[B, K]`; unknown tags count nothing.
        class_weight: Weight of absent and of present tags `[2, K]`, see `balance`; 1 if left out.
    """
    known = (tags >= 0).float()
    loss = F.binary_cross_entropy_with_logits(logits.float(), tags.clamp_min(0).float(), reduction="none")
    if class_weight is not None:
        known = known * torch.where(tags > 0, class_weight[1], class_weight[0])
    return (loss * known).sum() / known.sum().clamp_min(1e-6)


def balance(tags: Tensor, strength: float = 0.5) -> Tensor:
    """Weights `[2, K]` of absent and present tags, (n / 2n_c)^strength, so that rare outcomes are not drowned.

    Args:
        tags: All training tags `[N, K]`, -1 unknown.
        strength: 0 none, 1 full inverse frequency.
    """
    counts = torch.stack([(tags == 0).sum(0), (tags == 1).sum(0)]).float().clamp_min(1)
    return (counts.sum(0) / (2 * counts)) ** strength


def fraction_loss(
    logits: Tensor,
    valid: Tensor,
    tags: Tensor,
    presence_threshold: float | Tensor,
    class_weight: Tensor | None = None,
    slope: float | None = None,
) -> Tensor:
    """The class-fraction loss of a map of class logits `[B, K, h, w]` against tags `[B, K]`.

    Args:
        logits: Class logits of pixels or tokens; the softmax is over classes.
        valid: Valid share `[B, H, W]`, averaged down to the logits' grid.
        tags: 1 present, 0 absent, -1 unknown.
        presence_threshold: Share of the tile from which a class counts as present.
        class_weight: See `tag_loss`.
        slope: See `tag_probability`; that of `learning_slope` if left out.
    """
    slope = slope or learning_slope(float(presence_threshold))
    weight = valid.float()
    if weight.shape[1:] != logits.shape[2:]:
        weight = F.adaptive_avg_pool2d(weight, (logits.shape[2], logits.shape[3]))
    fractions = class_fractions(F.log_softmax(logits.float(), dim=1), weight)
    return tag_loss(tag_probability(fractions, presence_threshold, slope), tags, class_weight)
