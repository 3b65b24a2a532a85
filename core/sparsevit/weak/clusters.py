"""The published recipe: attention of the surviving heads, clustered, binarised, painted and filled.

Source: Hanna, Mommert & Borth 2023; steps 2–7 of the pseudomask generation. Every function works on one tile.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

HEAD_SEED = 24
"""Random state of the K-means over heads in the published code."""


def cluster_heads(maps: FloatArray, count: int) -> FloatArray:
    """Group head maps by K-means and average each group.

    Args:
        maps: Attention of each head `[heads, H, W]`, each scaled to a maximum of 1.
        count: Number of groups wanted; fewer come back when there are fewer distinct heads.

    Returns:
        Mean maps `[groups, H, W]`.
    """
    flat = maps.reshape(len(maps), -1)
    count = min(count, len(np.unique(flat, axis=0)))
    with threadpool_limits(1):  # the samples are few: threads cost more than they give
        groups = KMeans(count, n_init=3, random_state=HEAD_SEED).fit_predict(flat)
    return np.stack([maps[groups == g].mean(axis=0) for g in range(count)])


def two_means_threshold(values: FloatArray) -> FloatArray:
    """The border between the two groups of 1-D 2-means, exact, for each row.

    Args:
        values: `[rows, n]`.

    Returns:
        Thresholds `[rows]`: values above belong to the brighter group. A constant row gets its own value.
    """
    ordered = np.sort(values.astype(np.float64), axis=1)
    n = ordered.shape[1]
    below = np.cumsum(ordered, axis=1)[:, :-1]
    total = ordered.sum(axis=1, keepdims=True)
    left, right = np.arange(1, n), np.arange(n - 1, 0, -1)
    between = below**2 / left + (total - below) ** 2 / right  # maximal where the sum of squares within is minimal
    cut = between.argmax(axis=1)
    rows = np.arange(len(ordered))
    border: FloatArray = ((ordered[rows, cut] + ordered[rows, cut + 1]) / 2).astype(np.float32)
    return border


def binarise(maps: FloatArray) -> tuple[BoolArray, FloatArray]:
    """Foreground of each map by 1-D 2-means, and its strength.

    Args:
        maps: `[groups, H, W]`.

    Returns:
        Foreground `[groups, H, W]`, and the mean of each map over its foreground `[groups]` (0 if empty).
    """
    flat = maps.reshape(len(maps), -1)
    foreground = flat > two_means_threshold(flat)[:, None]
    strength = (flat * foreground).sum(axis=1) / np.maximum(foreground.sum(axis=1), 1)
    return foreground.reshape(maps.shape), strength.astype(np.float32)


def paint(foreground: BoolArray, strength: FloatArray, classes: IntArray) -> IntArray:
    """Paint groups from weak to strong, so that the stronger one wins on overlaps.

    Args:
        foreground: `[groups, H, W]`.
        strength: `[groups]`.
        classes: Class of each group `[groups]`; -1 paints nothing.

    Returns:
        Class of each pixel `[H, W]`, -1 where nothing was painted.
    """
    mask = np.full(foreground.shape[1:], -1, np.int64)
    for g in np.argsort(strength, kind="stable"):
        if classes[g] >= 0:
            mask[foreground[g]] = classes[g]
    return mask


def fill_nearest(mask: IntArray) -> IntArray:
    """Give every unpainted pixel (-1) the class of the nearest painted one; unchanged if nothing is painted."""
    empty = mask < 0
    if empty.all() or not empty.any():
        return mask
    rows, cols = distance_transform_edt(empty, return_distances=False, return_indices=True)
    filled: IntArray = mask[rows, cols]
    return filled
