"""Names of clusters: optimal assignment finds what was planted, the rank rule does not look."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevit.weak.naming import name_by_assignment, name_by_rank


def planted(order: list[int], classes: int, noise: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Stripes, one per cluster, and evidence in which stripe g is of the class `order[g]`."""
    groups, side = len(order), 4
    foreground = np.zeros((groups, side, side * groups), bool)
    evidence = np.random.default_rng(seed).random((classes, side, side * groups)).astype(np.float32) * noise
    for g, c in enumerate(order):
        columns = slice(g * side, (g + 1) * side)
        foreground[g, :, columns] = True
        evidence[c, :, columns] += 1
    return foreground, evidence / evidence.sum(axis=0)


@given(st.permutations(range(5)), st.integers(1, 5), st.integers(0, 50))
def test_assignment_recovers_a_planted_permutation(order: list[int], groups: int, seed: int) -> None:
    foreground, evidence = planted(order[:groups], 5, seed=seed)
    assert name_by_assignment(foreground, evidence, np.arange(5)).tolist() == order[:groups]


@pytest.mark.parametrize("order", [[1, 0], [2, 0, 1], [3, 2, 1, 0]])
def test_rank_fails_on_a_planted_permutation(order: list[int]) -> None:
    """Why the default is another rule: strength and probability say nothing about which cluster is which class."""
    foreground, evidence = planted(order, 4)
    strength = np.linspace(0.9, 0.5, len(order)).astype(np.float32)
    probability = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    by_rank = name_by_rank(strength, probability, np.arange(len(order)))
    assert by_rank.tolist() == list(range(len(order))) != order
    assert name_by_assignment(foreground, evidence, np.arange(4)).tolist() == order


@given(st.integers(1, 8), st.sets(st.integers(0, 9), min_size=1), st.integers(0, 99))
def test_only_allowed_classes_are_given_and_each_at_most_once(groups: int, allowed: set[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = np.array(sorted(allowed))
    foreground = rng.random((groups, 4, 4)) < 0.4
    evidence = rng.dirichlet(np.ones(10), (4, 4)).transpose(2, 0, 1).astype(np.float32)
    strength = rng.random(groups).astype(np.float32)
    for named in (
        name_by_assignment(foreground, evidence, classes),
        name_by_rank(strength, rng.random(10).astype(np.float32), classes),
    ):
        given_names = named[named >= 0].tolist()
        assert named.shape == (groups,)
        assert set(given_names) <= allowed
        assert len(given_names) == len(set(given_names)) == min(groups, len(allowed))


@given(st.permutations(range(4)), st.integers(0, 50))
def test_rank_gives_the_most_probable_class_to_the_strongest_cluster(order: list[int], seed: int) -> None:
    strength = np.array([0.1, 0.2, 0.3, 0.4], np.float32)[list(order)]
    probability = np.random.default_rng(seed).random(6).astype(np.float32)
    named = name_by_rank(strength, probability, np.arange(6))
    assert named[strength.argmax()] == probability.argmax()
    assert (np.diff(probability[named[np.argsort(strength)]]) >= 0).all()


def test_an_empty_cluster_does_not_stop_the_assignment() -> None:
    foreground, evidence = planted([1, 0], 2)
    foreground[0] = False
    assert name_by_assignment(foreground, evidence, np.arange(2)).tolist() == [1, 0]
