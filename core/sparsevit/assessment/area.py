"""Unbiased area and accuracy estimates with confidence intervals, after Olofsson et al. 2014.

Olofsson, Foody, Herold, Stehman, Woodcock, Wulder: Good practices for estimating area and assessing accuracy of land
change. Remote Sensing of Environment 148, 2014. The classes of the map are the strata; equation numbers are theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsevit.assessment.accuracy import FloatArray, IntMatrix

Z95 = 1.96


@dataclass(frozen=True)
class AreaEstimate:
    """Area estimates; arrays are `[classes]`, half-widths are those of 95 % intervals.

    Attributes:
        mapped: Area of each class as mapped (ha).
        estimated: Area of each class as estimated from the reference (ha).
        margin: Half-width of the interval of `estimated` (ha).
        overall: Area-weighted overall accuracy.
        overall_margin: Its half-width.
        users: User's accuracy; NaN for classes without sample.
        users_margin: Its half-width; NaN for classes of one sample unit, too, which tells no spread.
        producers: Area-weighted producer's accuracy; NaN for classes whose estimated area is zero.
        unsampled: Classes that are mapped but have no reference in their mapped area; left out of the estimate.
        single: Classes whose mapped area has one sample unit only; it adds nothing to the margins.
    """

    mapped: FloatArray
    estimated: FloatArray
    margin: FloatArray
    overall: float
    overall_margin: float
    users: FloatArray
    users_margin: FloatArray
    producers: FloatArray
    unsampled: FloatArray
    single: npt.NDArray[np.bool_]


def estimate_areas(confusion: IntMatrix, mapped: FloatArray) -> AreaEstimate:
    """Estimate the area of each class from a stratified sample.

    Args:
        confusion: Sample units `[map class i, reference class j]`, n_ij.
        mapped: Mapped area of each class over the whole map (ha).

    Returns:
        The estimates. Strata without sample carry no weight; their area is missing from the total.
    """
    n_ij = confusion.astype(np.float64)
    n_i = n_ij.sum(axis=1, keepdims=True)
    sampled = n_i[:, 0] > 0
    total = float(mapped[sampled].sum())
    weight = np.where(sampled, mapped, 0.0)[:, None] / max(total, 1e-12)
    share = np.divide(n_ij, n_i, out=np.zeros_like(n_ij), where=n_i > 0)
    p_ij = weight * share  # eq. 4
    p_j = p_ij.sum(axis=0)  # eq. 9
    spread = share * (1 - share) / np.maximum(n_i - 1, 1)
    error_j = np.sqrt((weight**2 * spread).sum(axis=0))  # eq. 10
    users = np.where(sampled, np.diagonal(share), np.nan)  # eq. 2
    users_error = np.sqrt(np.diagonal(spread))  # eq. 6
    overall_error = float(np.sqrt((weight[:, 0] ** 2 * np.diagonal(spread)).sum()))  # eq. 5
    return AreaEstimate(
        mapped=mapped,
        estimated=total * p_j,
        margin=Z95 * total * error_j,  # eq. 11
        overall=float(np.trace(p_ij)),  # eq. 1
        overall_margin=Z95 * overall_error,
        users=users,
        users_margin=np.where(n_i[:, 0] > 1, Z95 * users_error, np.nan),
        producers=np.divide(np.diagonal(p_ij), p_j, out=np.full(len(p_j), np.nan), where=p_j > 0),  # eq. 3
        unsampled=np.where(sampled, 0.0, mapped),
        single=n_i[:, 0] == 1,
    )
