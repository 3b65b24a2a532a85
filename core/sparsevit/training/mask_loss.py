"""Cross-entropy on pseudomasks: rare classes count more, and the tags of a tile are a prior."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsevit.geodata.tile_masks import UNLABELLED
from sparsevit.training.clipping import ClippingRule, clipped_mean

TINY = 1e-6


class MaskLoss:
    """Cross-entropy of logits on pseudomasks, in which rare classes count more, and the tags of a tile are a prior.

    A class that the tags exclude may still cover less than the presence threshold τ of a tile, and the masks, which
    are restricted to the tags, give its pixels another name. Unless told so, a network unlearns a rare class that
    hides in tiles tagged with others. Therefore ln τ is added to the logits of excluded classes in the loss alone
    (logit adjustment, Menon et al. 2021, with a prior by tile): where the network is sure of an excluded class, the
    mask says little against it; that the class covers little is what the class-fraction loss says.

    Args:
        masks: All masks `[N, H, W]`, -1 to ignore.
        classes: Number of classes.
        presence_threshold: Share of a tile from which a class counts as present.
        label_smoothing: Share of the label that is spread evenly over the classes that the tags allow.
        rule: Which pixels teach nothing because their labels are improbable; all teach without one.
        device: Of the logits.
    """

    def __init__(
        self,
        masks: Tensor,
        classes: int,
        *,
        presence_threshold: float,
        label_smoothing: float,
        rule: ClippingRule | None,
        device: torch.device,
    ) -> None:
        self.prior = math.log(presence_threshold)
        self.weight = mask_balance(masks, classes).to(device)
        self.smoothing, self.rule = label_smoothing, rule

    def __call__(self, logits: Tensor, target: Tensor, tags: Tensor) -> Tensor:
        """The loss, a scalar; 0 where no pixel has a label.

        Args:
            logits: `[B, K, H, W]`.
            target: Masks `[B, H, W]`; labels that the tags exclude teach nothing.
            tags: 1 present, 0 absent, -1 unknown `[B, K]`.
        """
        possible = allowed_by(tags)[..., None, None]
        log_p = F.log_softmax(logits.float() + self.prior * ~possible, dim=1)
        known = target.clamp_min(0)[:, None]
        valid = (target != UNLABELLED) & possible.expand_as(log_p).gather(1, known)[:, 0]
        even = (log_p * possible).sum(1) / possible.sum(1)
        loss = -(1 - self.smoothing) * log_p.gather(1, known)[:, 0] - self.smoothing * even
        weight = self.weight[known[:, 0]]
        if self.rule is not None:
            return clipped_mean(loss, valid, self.rule, weight)
        weight = weight * valid
        return (loss * weight).sum() / weight.sum().clamp_min(TINY)


def allowed_by(tags: Tensor) -> Tensor:
    """Which classes the tags `[N, K]` (1 present, 0 absent, -1 unknown) allow; all of them where they exclude all."""
    possible = tags != 0
    return possible | ~possible.any(dim=1, keepdim=True)


def mask_balance(masks: Tensor, classes: int) -> Tensor:
    """Weight of each class `[K]` in the cross-entropy: inverse root of its share of the labelled pixels, mean 1.

    The masks hold few pixels of rare classes and, being restricted to the tags, none where a class covers less than
    the presence threshold; the weight is meant to keep the network from leaving rare classes out.
    """
    counts = torch.bincount(masks[masks != UNLABELLED], minlength=classes).float().clamp_min(1)
    weight = counts.rsqrt()
    return weight / weight.mean()
