"""The published recipe on one tile: cluster the heads, binarise, paint, fill."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.cluster import KMeans

from sparsevit.weak.clusters import binarise, cluster_heads, fill_nearest, paint, two_means_threshold

MASKS = arrays.arrays(np.int64, arrays.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.integers(-1, 3))


def within(values: np.ndarray, threshold: float) -> float:
    """Sum of squares within the two groups that a threshold makes."""
    groups = (values[values > threshold], values[values <= threshold])
    return float(sum(((g - g.mean()) ** 2).sum() for g in groups if g.size))


def maps_of(count: int, seed: int, side: int = 6) -> np.ndarray:
    maps = np.random.default_rng(seed).random((count, side, side)).astype(np.float32)
    return maps / maps.max(axis=(1, 2), keepdims=True)


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=30))
def test_the_border_between_two_groups_is_the_best_of_all(numbers: list[int]) -> None:
    values = np.array(numbers, np.float32) / 10
    threshold = float(two_means_threshold(values[None])[0])
    distinct = np.unique(values)
    best = min(within(values, (a + b) / 2) for a, b in pairwise(distinct)) if len(distinct) > 1 else 0
    assert within(values, threshold) == pytest.approx(best, rel=1e-3, abs=1e-2)


@settings(max_examples=15)
@given(st.integers(0, 999))
def test_the_border_equals_k_means_of_a_library(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(0, 0.1, 60), rng.normal(1, 0.2, 40)]).astype(np.float32)
    labels = KMeans(2, n_init=5, random_state=21).fit_predict(values[:, None].astype(np.float64))
    bright = labels == labels[values.argmax()]
    np.testing.assert_array_equal(values > two_means_threshold(values[None])[0], bright)


def test_rows_are_thresholded_each_by_itself() -> None:
    maps = maps_of(4, 0).reshape(4, -1)
    together = two_means_threshold(maps)
    np.testing.assert_array_equal(together, [two_means_threshold(row[None])[0] for row in maps])


@given(st.integers(1, 16), st.integers(1, 10), st.integers(0, 20))
@settings(max_examples=25)
def test_fewer_heads_than_classes_never_raise(heads: int, classes: int, seed: int) -> None:
    groups = cluster_heads(maps_of(heads, seed), classes)
    assert groups.shape == (min(heads, classes), 6, 6)


def test_heads_that_are_all_alike_make_one_group() -> None:
    maps = np.repeat(maps_of(1, 0), 5, axis=0)
    np.testing.assert_allclose(cluster_heads(maps, 3), maps[:1], rtol=1e-6)


def test_planted_groups_of_heads_are_found() -> None:
    rng = np.random.default_rng(0)
    planted = np.zeros((3, 6, 6), np.float32)
    for k in range(3):
        planted[k, :, 2 * k : 2 * k + 2] = 1
    groups = rng.permutation(np.repeat(np.arange(3), 4))
    maps = planted[groups] + rng.normal(0, 0.02, (12, 6, 6)).astype(np.float32)
    found = cluster_heads(maps, 3)
    nearest = [int(np.abs(planted - f).sum(axis=(1, 2)).argmin()) for f in found]
    assert sorted(nearest) == [0, 1, 2]


@given(st.integers(0, 50), st.permutations(range(8)))
@settings(max_examples=20)
def test_the_order_of_heads_does_not_matter(seed: int, order: list[int]) -> None:
    side = 6
    planted = np.zeros((2, side, side), np.float32)
    planted[0, :3], planted[1, 3:] = 1, 1
    maps = np.repeat(planted, 4, axis=0) * (0.9 + 0.1 * maps_of(8, seed))

    def mask(heads: np.ndarray) -> np.ndarray:
        foreground, strength = binarise(cluster_heads(heads, 2))
        upper = foreground[:, 0, 0]  # names that depend on what a group shows, not on its number
        return fill_nearest(paint(foreground, strength, np.where(upper, 0, 1)))

    np.testing.assert_array_equal(mask(maps), mask(maps[list(order)]))


@given(st.integers(0, 99))
def test_foreground_is_brighter_than_the_rest_and_strength_is_its_mean(seed: int) -> None:
    maps = maps_of(3, seed)
    foreground, strength = binarise(maps)
    for m, f, s in zip(maps, foreground, strength, strict=True):
        assert m[f].min() > m[~f].max()
        assert s == pytest.approx(m[f].mean(), rel=1e-5)


def test_a_constant_map_has_no_foreground_and_no_strength() -> None:
    foreground, strength = binarise(np.full((1, 4, 4), 0.5, np.float32))
    assert not foreground.any() and strength[0] == 0


@given(st.integers(0, 99), st.permutations(range(4)))
def test_the_stronger_group_wins_on_overlaps_in_any_order(seed: int, order: list[int]) -> None:
    rng = np.random.default_rng(seed)
    foreground = rng.random((4, 5, 5)) < 0.5
    strength = np.array([0.2, 0.4, 0.6, 0.8], np.float32)
    classes = np.array([7, 3, 5, 1])
    mask = paint(foreground, strength, classes)
    for y, x in np.ndindex(5, 5):
        painters = np.flatnonzero(foreground[:, y, x])
        assert mask[y, x] == (classes[painters[-1]] if len(painters) else -1)
    i = list(order)
    np.testing.assert_array_equal(paint(foreground[i], strength[i], classes[i]), mask)


def test_a_group_without_a_class_paints_nothing() -> None:
    foreground = np.ones((2, 2, 2), bool)
    assert (paint(foreground, np.array([0.5, 0.9], np.float32), np.array([4, -1])) == 4).all()


@given(MASKS)
def test_filling_takes_the_nearest_painted_pixel(mask: np.ndarray) -> None:
    filled = fill_nearest(mask)
    painted = np.argwhere(mask >= 0)
    if len(painted) == 0:
        np.testing.assert_array_equal(filled, mask)
        return
    np.testing.assert_array_equal(filled[mask >= 0], mask[mask >= 0])
    for y, x in np.argwhere(mask < 0):
        distance = ((painted - (y, x)) ** 2).sum(axis=1)
        nearest = {int(mask[tuple(p)]) for p in painted[distance == distance.min()]}
        assert int(filled[y, x]) in nearest
