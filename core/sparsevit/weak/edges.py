"""Borders that follow the spectra of all bands."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from skimage.segmentation import slic
from torch import Tensor

DILATIONS = (1, 2, 4)
SHARPNESS = 0.3
POSITION_WEIGHT = 0.01
PIXELS_PER_SEGMENT = 24


SHIFTS = [(dy * d, dx * d) for d in DILATIONS for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
"""Offsets (rows, columns) of the neighbours that a pixel looks at."""


def _neighbours(x: Tensor) -> Iterator[Tensor]:
    """Each neighbour of all pixels in turn, `[B, C, H, W]`; one at a time, so that memory does not grow with them."""
    height, width = x.shape[-2:]
    reach = max(DILATIONS)
    padded = F.pad(x, (reach,) * 4, mode="replicate")
    for dy, dx in SHIFTS:
        yield padded[..., reach + dy : reach + dy + height, reach + dx : reach + dx + width]


def adaptive_refinement(probabilities: Tensor, bands: Tensor, iterations: int) -> Tensor:
    """Pixel-adaptive refinement: each pixel takes the mean of its neighbours, weighted by spectral likeness.

    The weights are a softmax over neighbours of −(difference / (SHARPNESS · local deviation))², averaged over bands,
    plus a small weight for nearness. Method: Ru et al. 2022 (AFA), on all bands instead of three colours.

    Args:
        probabilities: Class probabilities `[B, K, H, W]`.
        bands: Normalised bands `[B, C, H, W]` without NaN.
        iterations: How often to average.
    """
    count = len(SHIFTS)
    mean = sum(_neighbours(bands)) / count
    variance = sum(n.square() for n in _neighbours(bands)) / count - mean.square()
    scale = SHARPNESS * variance.clamp_min(1e-6).sqrt().clamp_min(1e-2)
    likeness = torch.stack([-((n - bands) / scale).square().mean(dim=1) for n in _neighbours(bands)])  # (shifts, B, H, W)
    distance = torch.tensor([(dy * dy + dx * dx) ** 0.5 for dy, dx in SHIFTS], device=bands.device)
    nearness = torch.softmax(-(distance / (SHARPNESS * distance.std())).square(), 0)
    weight = torch.softmax(likeness, 0) + POSITION_WEIGHT * nearness[:, None, None, None]
    weight = weight / (1 + POSITION_WEIGHT)
    for _ in range(iterations):
        neighbours = zip(_neighbours(probabilities), weight, strict=True)
        probabilities = sum((n * w[:, None] for n, w in neighbours), torch.zeros_like(probabilities))
    return probabilities


def superpixel_vote(
    probabilities: npt.NDArray[np.float32], bands: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
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
