"""Losses from tags: what a tag means, what counts and what does not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsevit.training.losses import (
    SLOPE,
    balance,
    class_fractions,
    fraction_loss,
    learning_slope,
    tag_loss,
    tag_probability,
)
from sparsevit.training.metrics import tag_scores

THRESHOLDS = st.floats(0.01, 0.9)


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(THRESHOLDS)
def test_a_fraction_at_the_threshold_is_undecided(threshold: float) -> None:
    assert tag_probability(torch.tensor([threshold]), threshold).item() == pytest.approx(0, abs=1e-5)


@given(THRESHOLDS, st.floats(1e-4, 1), st.floats(1e-4, 1))
def test_a_larger_fraction_is_more_likely_tagged(threshold: float, a: float, b: float) -> None:
    low, high = sorted((a, b))
    p = tag_probability(torch.tensor([low, high]), threshold)
    assert p[0] <= p[1]


@pytest.mark.parametrize(("threshold", "slope"), [(0.02, 0.6), (0.05, 1.5), (0.1, SLOPE), (0.4, SLOPE)])
def test_small_thresholds_are_learned_by_a_gentle_slope(threshold: float, slope: float) -> None:
    assert learning_slope(threshold) == pytest.approx(slope)
    assert learning_slope(threshold, 1.0) == pytest.approx(min(slope, 1))


@pytest.mark.parametrize("slope", [SLOPE, None])
def test_a_class_that_covers_a_few_thresholds_still_asks_for_more(slope: float | None) -> None:
    """Even where another class is in the tile: a steep slope leaves all but the few thresholds to that."""
    x = torch.tensor([0.08, 0.92]).log()[None, :, None, None].requires_grad_(True)
    fraction_loss(x, torch.ones(1, 1, 1), torch.ones(1, 2, dtype=torch.int8), 0.02, slope=slope).backward()
    assert x.grad is not None and (x.grad[0, 0].item() < -0.05) == (slope is None)


def test_a_class_that_covers_nothing_gives_a_finite_loss() -> None:
    assert tag_loss(tag_probability(torch.zeros(1, 2), 0.1), torch.ones(1, 2)).isfinite()


@given(st.integers(0, 50))
def test_class_fractions_sum_to_one_and_ignore_invalid_pixels(seed: int) -> None:
    maps = logits(2, 3, 6, 6, seed=seed)
    valid = (torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(seed)) < 0.6).float()
    valid[:, 0, 0] = 1
    fractions = class_fractions(maps.log_softmax(1), valid)
    torch.testing.assert_close(fractions.sum(1), torch.ones(2))
    changed = torch.where(valid[:, None] > 0, maps, logits(2, 3, 6, 6, seed=seed + 1) * 5)
    torch.testing.assert_close(class_fractions(changed.log_softmax(1), valid), fractions)


def test_fractions_of_a_crisp_map_are_shares_of_pixels() -> None:
    maps = torch.full((1, 2, 2, 4), -30.0)
    maps[0, 0, :, :3] = 0
    maps[0, 1, :, 3:] = 0
    fractions = class_fractions(maps.log_softmax(1), torch.ones(1, 2, 4))
    torch.testing.assert_close(fractions, torch.tensor([[0.75, 0.25]]))


def test_unknown_tags_have_no_gradient() -> None:
    x = logits(4, 3).requires_grad_(True)
    tags = torch.tensor([[1, 0, -1], [-1, -1, -1], [0, 1, 1], [-1, 0, 1]])
    tag_loss(x, tags, torch.rand(2, 3)).backward()
    assert x.grad is not None
    assert torch.equal(x.grad == 0, tags < 0)


def test_tags_that_are_all_unknown_cost_nothing() -> None:
    x = logits(2, 3).requires_grad_(True)
    loss = tag_loss(x, torch.full((2, 3), -1))
    loss.backward()
    assert loss.item() == 0 and x.grad is not None and (x.grad == 0).all()


def test_invalid_pixels_have_no_gradient() -> None:
    x = logits(2, 3, 8, 8).requires_grad_(True)
    valid = torch.ones(2, 8, 8, dtype=torch.bool)
    valid[0, :, 4:] = False
    fraction_loss(x, valid, torch.tensor([[1, 0, -1], [0, 1, 1]]), 0.1).backward()
    assert x.grad is not None
    assert torch.equal((x.grad != 0).any(1), valid)


def test_invalid_pixels_count_less_in_coarse_maps_too() -> None:
    x = logits(1, 3, 2, 2).requires_grad_(True)
    valid = torch.ones(1, 8, 8)
    valid[:, :4, :4] = 0
    fraction_loss(x, valid, torch.tensor([[1, 0, 0]]), 0.1).backward()
    assert x.grad is not None
    assert (x.grad[0, :, 0, 0] == 0).all() and (x.grad[0, :, 1, 1] != 0).any()


def test_the_loss_calibrates_extent() -> None:
    """The lowest loss of a present class is not at full cover of an absent one: each fraction crosses its threshold."""
    shares = torch.linspace(0.01, 0.99, 99)
    tags = torch.tensor([[1, 0]]).expand(99, -1)
    fractions = torch.stack([shares, 1 - shares], 1)
    losses = [tag_loss(tag_probability(f[None], 0.1), t[None]).item() for f, t in zip(fractions, tags, strict=True)]
    assert losses == sorted(losses, reverse=True)
    both = torch.tensor([1, 1])
    even = [tag_loss(tag_probability(f[None], 0.1), both[None]).item() for f in fractions]
    assert even.index(min(even)) == 49


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 30))
def test_present_and_absent_tags_of_a_class_weigh_the_same_at_full_strength(
    ones: int, zeros: int, unknown: int
) -> None:
    tags = torch.tensor([1] * ones + [0] * zeros + [-1] * unknown)[:, None]
    absent, present = balance(tags, strength=1).flatten().tolist()
    assert present * ones == pytest.approx(absent * zeros, rel=1e-4)
    assert balance(tags, strength=0).flatten().tolist() == [1, 1]


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_rarer_outcome_never_weighs_less(ones: int, zeros: int) -> None:
    tags = torch.tensor([1] * ones + [0] * zeros + [-1])[:, None]
    absent, present = balance(tags).flatten().tolist()
    assert (present >= absent) == (ones <= zeros) or abs(ones - zeros) <= 1
    assert torch.isfinite(balance(tags)).all()


def test_scores_leave_out_unknown_tags_and_classes_that_no_tile_has() -> None:
    tags = torch.tensor([[1, 0, 0], [1, -1, 0], [0, 1, 0], [0, 1, 0]])
    perfect = torch.where(tags == 1, 5.0, -5.0)
    perfect[1, 1] = 5.0  # unknown: whatever is said there is not wrong
    scores = tag_scores(perfect, tags, 0.0)
    assert (scores.macro_f1, scores.mean_ap) == (1, 1)
    assert scores.f1[:2] == [1, 1] and scores.f1[2] != scores.f1[2]
    assert tag_scores(-perfect, tags, 0.0).macro_f1 == 0
