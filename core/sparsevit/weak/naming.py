"""Which class a cluster of heads stands for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


def name_by_rank(strength: FloatArray, probability: FloatArray, allowed: IntArray) -> IntArray:
    """The published rule: the strongest cluster gets the most probable class, and so on.

    There is no link between what a cluster shows and the class that it gets; kept so that it can be compared.

    Args:
        strength: Strength of each cluster `[groups]`.
        probability: Probability of each class `[K]`.
        allowed: Classes that may be given.

    Returns:
        Class of each cluster `[groups]`, -1 where the classes ran out.
    """
    named = np.full(len(strength), -1, np.int64)
    classes = allowed[np.argsort(-probability[allowed], kind="stable")]
    order = np.argsort(-strength, kind="stable")[: len(classes)]
    named[order] = classes[: len(order)]
    return named


def name_by_assignment(foreground: BoolArray, evidence: FloatArray, allowed: IntArray) -> IntArray:
    """Optimal assignment of clusters to classes by the mean evidence of the class inside the cluster.

    Args:
        foreground: `[groups, H, W]`.
        evidence: Class probabilities `[K, H, W]`.
        allowed: Classes that may be given.

    Returns:
        Class of each cluster `[groups]`, each class at most once; -1 where the classes ran out.
    """
    inside = foreground.reshape(len(foreground), -1).astype(np.float32)
    score = inside @ evidence[allowed].reshape(len(allowed), -1).T / np.maximum(inside.sum(axis=1), 1)[:, None]
    rows, cols = linear_sum_assignment(score, maximize=True)
    named = np.full(len(foreground), -1, np.int64)
    named[rows] = allowed[cols]
    return named
