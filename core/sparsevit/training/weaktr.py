"""Losses of the transformer with class tokens."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from sparsevit.models.attention_fusion import TINY
from sparsevit.models.weaktr import WeakTrOutput
from sparsevit.training.losses import fraction_loss, tag_loss

HEAD_ENTROPY = 0.01
"""Weight of the spread of head weights in repaired mode; the paper has no such term."""


class ClassTokenLosses(NamedTuple):
    """The parts of the loss, scalars.

    Attributes:
        tags: Of the class tokens.
        coarse: Of the coarse maps.
        fine: Of the fine maps.
        spread: How evenly heads count (0–1), see `head_spread`; not part of the published loss.
    """

    tags: Tensor
    coarse: Tensor
    fine: Tensor
    spread: Tensor


def class_token_losses(output: WeakTrOutput, tags: Tensor, class_weight: Tensor | None = None) -> ClassTokenLosses:
    """The losses of the three predictions of tags, and the spread of the head weights.

    Without class weights and with all tags known each of them is the multi-label soft-margin loss of the paper: the
    mean over classes of the binary cross-entropy of a logit.

    Args:
        output: What the network said about a batch.
        tags: 1 present, 0 absent, -1 unknown `[B, K]`; unknown tags have no gradient.
        class_weight: Weight of absent and of present tags `[2, K]`, see `losses.balance`.
    """
    predictions = (output.tags, output.coarse_tags, output.fine_tags)
    cls, coarse, fine = (tag_loss(p, tags, class_weight) for p in predictions)
    return ClassTokenLosses(cls, coarse, fine, head_spread(output.head_weights))


def faithful_loss(output: WeakTrOutput, tags: Tensor) -> Tensor:
    """The published loss: the plain sum of the three soft-margin losses (WeakTr, phase 1).

    Args:
        output: What a network in faithful mode said about a batch.
        tags: 1 present, 0 absent, -1 unknown `[B, K]`.
    """
    losses = class_token_losses(output, tags)
    return losses.tags + losses.coarse + losses.fine


def repaired_loss(
    output: WeakTrOutput,
    valid: Tensor,
    tags: Tensor,
    presence_threshold: float,
    class_weight: Tensor | None = None,
    head_entropy: float = HEAD_ENTROPY,
) -> Tensor:
    """The three losses with balanced tags, class fractions of the coarse maps, and a prior for few heads that count.

    The mean of class logits, which the published loss trains, does not care where they come from; the fractions, in
    which classes compete for every patch, do.

    Args:
        output: What a network in repaired mode said about a batch.
        valid: Valid share of each pixel `[B, H, W]`.
        tags: 1 present, 0 absent, -1 unknown `[B, K]`.
        presence_threshold: Share of the tile from which a class counts as present.
        class_weight: Weight of absent and of present tags `[2, K]`, see `losses.balance`.
        head_entropy: Weight of `head_spread`.
    """
    losses = class_token_losses(output, tags, class_weight)
    fractions = fraction_loss(output.coarse, valid, tags, presence_threshold, class_weight)
    return losses.tags + losses.coarse + losses.fine + fractions + head_entropy * losses.spread


def head_spread(weights: Tensor) -> Tensor:
    """Entropy of the head weights as shares, relative to that of equal shares: 0 one head counts, 1 all the same.

    Args:
        weights: Weights of heads, 0 for closed ones `[B, Σ heads]`.
    """
    shares = weights.float() / weights.float().sum(1, keepdim=True).clamp_min(TINY)
    entropy = -(shares * shares.clamp_min(TINY).log()).sum(1)
    return (entropy / max(math.log(max(weights.shape[1], 1)), TINY)).mean()
