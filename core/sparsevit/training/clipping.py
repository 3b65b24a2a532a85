"""Gradient clipping of noisy labels: pixels whose loss is far above that of their surroundings teach nothing.

Method: WeakTr (Zhu, Li et al., arXiv 2304.01184, eq. 12–13), in the form of the loss that its retraining uses. For the
logit of the labelled class |dl/dz| = 1 − e^(−l) grows with the cross-entropy l, so that a limit on l picks the pixels
with the steepest gradients: in a pseudomask, the probable errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsevit.training import group

START_SHARE = 0.4
"""Share of ln(classes), the loss of a guess, from which on losses are clipped; published: 1.2 = 0.39 ln 21."""
PATCHES = 4
"""Patches along one side of an image; published: 480 / 120."""


@dataclass(frozen=True)
class ClippingRule:
    """What a pixel's loss is compared with.

    Attributes:
        patch: Largest side of a patch (pixels), within which losses are averaged.
        start: Mean loss (nats) above which nothing is clipped: the network does not know enough yet to judge labels.
        per_image: Every image has its own means and its own start, and where a whole patch is wrong it sets its own
            threshold and teaches on; otherwise a patch's mean is that of all images of the batch at the same place.
        published: Ignored pixels count as pixels without loss, and each process judges by its own tiles alone.
    """

    patch: int
    start: float
    per_image: bool = False
    published: bool = False


PUBLISHED = ClippingRule(patch=120, start=1.2, published=True)
"""WeakTr's rule for 21 classes and crops of 480 pixels."""


def clipping_rule(classes: int, side: int, per_image: bool = False) -> ClippingRule:
    """The rule for any number of classes and any side of an image (pixels)."""
    return ClippingRule(math.ceil(side / PATCHES), START_SHARE * math.log(classes), per_image)


def clipping_threshold(loss: Tensor, valid: Tensor, rule: ClippingRule) -> Tensor:
    """The largest loss that a pixel may have and still teach.

    max(λ_patch, λ_global): the mean loss of the pixel's patch, or of all pixels where that is larger; infinite as
    long as λ_global is above the start. All processes of a group must ask together, and get the same answer.

    Args:
        loss: Cross-entropy of each pixel `[B, H, W]` (nats), at least 0; any size.
        valid: Which pixels have a label `[B, H, W]`, bool; the others do not count.
        rule: Patches, start, whose means.

    Returns:
        Thresholds (nats) `[B, H, W]` with `per_image`, otherwise `[1, H, W]`; without a gradient.

    Raises:
        ValueError: `loss` and `valid` have different shapes.
    """
    if loss.shape != valid.shape:
        raise ValueError(
            f"a loss of {tuple(loss.shape)} and valid pixels of {tuple(valid.shape)} do not belong together"
        )
    height, width = loss.shape[1:]
    grid = (math.ceil(height / rule.patch), math.ceil(width / rule.patch))
    # In float64 the mean of equal losses is exactly that loss; Apple's GPU has none.
    precise = torch.float32 if loss.device.type == "mps" else torch.float64
    counted = torch.ones_like(valid) if rule.published else valid
    parts = torch.stack([torch.where(valid, loss.detach(), 0).to(precise), counted.to(precise)])  # (2, B, H, W)
    patches = F.adaptive_avg_pool2d(parts, grid).flatten(2)  # where sides do not divide, patches share a row of pixels
    sums = torch.cat([patches, parts.mean((2, 3))[..., None]], dim=2)  # (2, B, patches + 1), the image last
    if not rule.per_image:
        sums = sums.sum(1, keepdim=True)
        sums = sums if rule.published else group.mean(sums)
    means = sums[0] / sums[1].clamp_min(torch.finfo(precise).tiny)
    overall = means[:, -1:]
    threshold = torch.where(overall > rule.start, torch.inf, torch.maximum(means, overall))[:, :-1]
    return F.interpolate(threshold.view(-1, 1, *grid), (height, width), mode="nearest-exact")[:, 0].to(loss.dtype)


def clipped_mean(loss: Tensor, valid: Tensor, rule: ClippingRule, weight: Tensor | None = None) -> Tensor:
    """The mean loss of the labelled pixels; those above the threshold count as much as it and have no gradient.

    Where processes train together, the mean over them of this loss is the mean over all their pixels.

    Args:
        loss: Cross-entropy of each pixel `[B, H, W]` (nats), without class weights.
        valid: Which pixels have a label `[B, H, W]`, bool.
        rule: See `clipping_threshold`.
        weight: How much each pixel counts in the mean `[B, H, W]`, such as the weight of its class; 1 if left out.
            Thresholds do not see it.

    Returns:
        A scalar; 0, with a gradient of 0, where no pixel has a label.

    Raises:
        ValueError: `loss` and `valid` have different shapes.
    """
    threshold = clipping_threshold(loss, valid, rule)
    clipped = torch.where(loss <= threshold, loss, threshold)  # not torch.minimum: it halves the gradient of ties
    weight = torch.ones_like(loss) if weight is None else weight
    counted = weight if rule.published else torch.where(valid, weight, 0)
    total = counted.sum() if rule.published else group.mean(counted.sum())
    return (torch.where(valid, clipped, 0) * counted).sum() / total.clamp_min(torch.finfo(loss.dtype).tiny)
