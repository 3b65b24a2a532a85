"""Borders that follow the spectra of all bands."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from skimage.segmentation import slic
from torch import Tensor

from sparsevit.settings import STRICT

FloatArray = npt.NDArray[np.float32]

DILATIONS = (1, 2, 4)
REACH = sum(DILATIONS)
"""How far a pixel's refinement looks (pixels), one iteration."""
PIXELS_PER_SEGMENT = 24


@dataclass(frozen=True, config=STRICT)
class EdgeSettings:
    """How the borders of a map follow the spectra."""

    edges: Literal["adaptive", "superpixels", "none"] = Field(
        default="adaptive",
        description="How borders follow the spectra. adaptive: pixel-adaptive averaging; superpixels: mean; none.",
    )
    edge_sharpness: float = Field(
        default=0.8, gt=0, description="adaptive: spectral difference (standard deviations) that makes an edge."
    )


SHIFTS = ((0, 1), (1, -1), (1, 0), (1, 1))
"""Directions (rows, columns) of four of the eight neighbours; the others are these seen from the other side."""


def shifted(height: int, width: int, down: int, right: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Index of the pixels that have a neighbour at a shift (`down` ≥ 0) inside the raster, and of those neighbours."""
    rows, cols = max(height - down, 0), max(width - abs(right), 0)
    left, far = max(-right, 0), max(right, 0)
    here = (..., slice(0, rows), slice(left, left + cols))
    there = (..., slice(down, down + rows), slice(far, far + cols))
    return here, there


def adaptive_refinement(probabilities: Tensor, bands: Tensor, sharpness: float, iterations: int = 1) -> Tensor:
    """Pixel-adaptive refinement: each pixel takes the mean of its spectrally alike neighbours.

    The weight of a neighbour is exp(−d²/sharpness²), d² the squared difference of the normalised bands, averaged over
    bands. The neighbourhood widens from step to step (1, 2, 4 pixels), so that three steps of eight neighbours reach
    seven pixels: the à-trous scheme of Dammertz et al. 2010 in place of the 24 neighbours at once of Ru et al. 2022.

    Args:
        probabilities: Class probabilities `[B, K, H, W]`.
        bands: Normalised bands `[B, C, H, W]` without NaN.
        sharpness: Spectral difference (standard deviations) at which a neighbour counts 1/e.
        iterations: How often to go through the three steps.
    """
    height, width = probabilities.shape[-2:]
    scaled = bands / (sharpness * bands.shape[1] ** 0.5)
    for dilation in DILATIONS * iterations:
        total, norm = probabilities.clone(), torch.ones_like(bands[:, :1])
        for dy, dx in SHIFTS:
            here, there = shifted(height, width, dilation * dy, dilation * dx)
            weight = (scaled[here] - scaled[there]).square_().sum(dim=1, keepdim=True).neg_().exp_()
            total[here].addcmul_(probabilities[there], weight)
            total[there].addcmul_(probabilities[here], weight)
            norm[here] += weight
            norm[there] += weight
        probabilities = total.div_(norm)
    return probabilities


def superpixel_vote(probabilities: FloatArray, bands: FloatArray) -> FloatArray:
    """Give every pixel the mean probabilities of its superpixel (SLIC on all bands).

    Args:
        probabilities: `[K, H, W]`.
        bands: Normalised bands `[C, H, W]` without NaN.
    """
    count = max(bands[0].size // PIXELS_PER_SEGMENT, 1)
    segments = slic(bands.astype(np.float64), n_segments=count, compactness=0.5, channel_axis=0, start_label=0).ravel()
    sizes = np.bincount(segments)
    flat = probabilities.reshape(len(probabilities), -1)
    means = np.stack([np.bincount(segments, weights=p) for p in flat]) / np.maximum(sizes, 1)
    return means[:, segments].reshape(probabilities.shape).astype(np.float32)


def sharpen(evidence: FloatArray, bands: Tensor, settings: EdgeSettings) -> FloatArray:
    """Let the borders of evidence `[K, H, W]` follow normalised bands `[1, C, H, W]` (no NaN), on the bands' device."""
    if settings.edges == "none":
        return evidence
    if settings.edges == "superpixels":
        return superpixel_vote(evidence, bands[0].cpu().numpy())
    with torch.inference_mode():
        p = torch.from_numpy(evidence)[None].to(bands.device)
        refined: FloatArray = adaptive_refinement(p, bands, settings.edge_sharpness)[0].cpu().numpy()
    return refined
