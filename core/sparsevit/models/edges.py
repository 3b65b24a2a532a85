"""Borders that follow the spectra of all bands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
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


SHIFTS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
"""Directions (rows, columns) of the eight neighbours."""


def _neighbours(x: Tensor, dilation: int) -> Iterator[Tensor]:
    """Each neighbour of all pixels in turn, `[B, C, H, W]`; one at a time, so that memory does not grow with them."""
    height, width = x.shape[-2:]
    padded = F.pad(x, (dilation,) * 4, mode="replicate")
    for dy, dx in SHIFTS:
        top, left = dilation * (1 + dy), dilation * (1 + dx)
        yield padded[..., top : top + height, left : left + width]


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
    for dilation in DILATIONS * iterations:
        total, norm = probabilities.clone(), torch.ones_like(bands[:, :1])
        for near, near_bands in zip(_neighbours(probabilities, dilation), _neighbours(bands, dilation), strict=True):
            difference = (near_bands - bands).square_().mean(dim=1, keepdim=True)
            weight = torch.exp(difference.mul_(-1 / sharpness**2))
            total.addcmul_(near, weight)
            norm += weight
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
