"""A dense conditional random field over all bands: the rival of the product's edges.

Krähenbühl & Koltun 2011 with exact messages: pixels further apart than `REACH` spreads of the kernel are left out
(Teichmann & Cipolla 2018), in place of an approximation of all pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsevit.models.edges import shifted

REACH = 2.0
"""How far the kernel goes (spreads)."""


@dataclass(frozen=True)
class Crf:
    """What a pixel is told by its neighbours.

    Attributes:
        spread: Standard deviation of the distance (pixels).
        sharpness: Standard deviation of the spectral difference (standard deviations of the bands, mean over bands).
        compatibility: Weight of the neighbours' mean against the pixel's own evidence (nats).
        iterations: Of the mean field; published: 10.
    """

    spread: float
    sharpness: float
    compatibility: float
    iterations: int = 10


def mean_field(probabilities: Tensor, bands: Tensor, crf: Crf) -> Tensor:
    """Class probabilities `[K, H, W]` after the mean field with the normalised bands `[C, H, W]` (no NaN)."""
    log_unary = probabilities.clamp_min(1e-6).log()
    kernel = _kernel(bands, crf)
    norm = _messages(kernel, torch.ones_like(bands[:1])).clamp_min(1e-6)
    for _ in range(crf.iterations):
        agreement = _messages(kernel, probabilities) / norm
        probabilities = torch.softmax(log_unary + crf.compatibility * agreement, dim=0)
    return probabilities


Kernel = list[tuple[tuple[int, int], Tensor]]
"""Weights between pixels and their neighbours at each shift (rows ≥ 0, columns); the other half is the same."""


def _kernel(bands: Tensor, crf: Crf) -> Kernel:
    reach = math.ceil(REACH * crf.spread)
    shifts = [(y, x) for y in range(reach + 1) for x in range(-reach, reach + 1) if (y, x) > (0, 0)]
    scaled = bands / (crf.sharpness * (2 * len(bands)) ** 0.5)
    out = []
    for down, right in shifts:
        near = math.exp(-(down**2 + right**2) / (2 * crf.spread**2))
        here, there = shifted(*scaled.shape[-2:], down, right)
        out.append(((down, right), (scaled[here] - scaled[there]).square_().sum(0).neg_().exp_().mul_(near)))
    return out


def _messages(kernel: Kernel, values: Tensor) -> Tensor:
    total = torch.zeros_like(values)
    for (down, right), weight in kernel:
        here, there = shifted(*values.shape[-2:], down, right)
        total[here].addcmul_(values[there], weight)
        total[there].addcmul_(values[here], weight)
    return total
