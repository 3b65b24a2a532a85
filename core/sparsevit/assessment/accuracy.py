"""Accuracy of a class map from one global confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntMatrix = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Accuracy:
    """Accuracy measures; arrays are `[classes]` and NaN where a class gives no evidence.

    Attributes:
        confusion: Pixels `[map class, reference class]`.
        overall: Share of pixels whose class is right (OA).
        average: Mean recall of the classes that the reference has (AA).
        miou: Mean intersection over union of the classes that the reference has.
        precision: User's accuracy; 1 - commission error.
        recall: Producer's accuracy; 1 - omission error.
        iou: Intersection over union.
        f1: Harmonic mean of precision and recall.
        absent: Classes that the reference does not have; `average` and `miou` leave them out.
    """

    confusion: IntMatrix
    overall: float
    average: float
    miou: float
    precision: FloatArray
    recall: FloatArray
    iou: FloatArray
    f1: FloatArray
    absent: npt.NDArray[np.bool_]


def accuracy(confusion: IntMatrix) -> Accuracy:
    """Measure accuracy.

    Classes without reference pixels are left out of the two means: their recall is not defined, and where the map
    shows them, the pixels already count as errors of the classes that are there.

    Args:
        confusion: Pixels `[map class, reference class]`, at least one.
    """
    right = np.diagonal(confusion).astype(np.float64)
    mapped, reference = confusion.sum(axis=1), confusion.sum(axis=0)
    absent = reference == 0
    recall, iou = _ratio(right, reference), _ratio(right, mapped + reference - right)
    return Accuracy(
        confusion=confusion,
        overall=float(right.sum() / confusion.sum()),
        average=float(recall[~absent].mean()),
        miou=float(iou[~absent].mean()),
        precision=_ratio(right, mapped),
        recall=recall,
        iou=iou,
        f1=_ratio(2 * right, mapped + reference),
        absent=absent,
    )


def count_pairs(mapped: npt.NDArray[np.integer], reference: npt.NDArray[np.integer], classes: int) -> IntMatrix:
    """Confusion matrix `[map class, reference class]` of two arrays of class positions; negative is ignored."""
    known = (mapped >= 0) & (reference >= 0)
    pair = mapped[known].astype(np.int64) * classes + reference[known]
    return np.bincount(pair, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def _ratio(part: FloatArray, whole: npt.NDArray[np.int64] | FloatArray) -> FloatArray:
    """Elementwise quotient, NaN where the whole is nothing."""
    quotient: FloatArray = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return quotient
