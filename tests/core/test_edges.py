"""Edges: probabilities follow the spectra and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsevit.mapping.predict import edge_refiner
from sparsevit.models.edges import REACH, EdgeSettings, adaptive_refinement, sharpen, superpixel_vote
from sparsevit.models.landcover import Architecture, LandCoverModel

SEEDS = st.integers(0, 200)
SIDES = st.integers(1, 14)


def evidence(height: int, width: int, classes: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(1, classes, height, width, generator=torch.Generator().manual_seed(seed)).softmax(1)


def bands(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(1, 2, height, width, generator=torch.Generator().manual_seed(seed + 1000))


def two_regions(side: int = 24) -> tuple[Tensor, Tensor]:
    """Bands with one strong edge, and which side of it a pixel is on."""
    right = torch.zeros(side, side, dtype=torch.bool)
    right[:, side // 2 :] = True
    values = torch.where(right, 3.0, -3.0)
    return values.expand(1, 2, -1, -1).clone(), right


@settings(max_examples=40)
@given(SIDES, SIDES, SEEDS)
def test_probabilities_still_sum_to_one_and_stay_in_range(height: int, width: int, seed: int) -> None:
    p = evidence(height, width, seed=seed)
    out = adaptive_refinement(p, bands(height, width, seed), 0.8)
    torch.testing.assert_close(out.sum(1), torch.ones(1, height, width))
    assert out.min() >= p.min() - 1e-6 and out.max() <= p.max() + 1e-6


@settings(max_examples=40)
@given(SIDES, SIDES, SEEDS)
def test_a_constant_stays_constant_whatever_the_spectra(height: int, width: int, seed: int) -> None:
    p = torch.tensor([0.2, 0.3, 0.5])[None, :, None, None].expand(1, 3, height, width)
    torch.testing.assert_close(adaptive_refinement(p, bands(height, width, seed) * 3, 0.5), p)


@settings(max_examples=40)
@given(SEEDS, st.permutations(range(4)))
def test_the_order_of_classes_does_not_matter(seed: int, order: list[int]) -> None:
    p, z = evidence(7, 9, 4, seed), bands(7, 9, seed)
    torch.testing.assert_close(adaptive_refinement(p[:, order], z, 0.8), adaptive_refinement(p, z, 0.8)[:, order])


@settings(max_examples=40)
@given(SEEDS)
def test_flips_and_turns_of_the_input_flip_and_turn_the_output(seed: int) -> None:
    p, z = evidence(8, 8, seed=seed), bands(8, 8, seed)
    out = adaptive_refinement(p, z, 0.8)
    for turn in (lambda t: t.flip(-1), lambda t: t.flip(-2), lambda t: t.rot90(1, (-2, -1))):
        torch.testing.assert_close(adaptive_refinement(turn(p), turn(z), 0.8), turn(out))


@settings(max_examples=40)
@given(SIDES, SIDES, SEEDS)
def test_without_a_like_neighbour_nothing_changes(height: int, width: int, seed: int) -> None:
    p = evidence(height, width, seed=seed)
    assert torch.equal(adaptive_refinement(p, bands(height, width, seed), 1e-4), p)


@settings(max_examples=40)
@given(SEEDS)
def test_where_all_spectra_are_the_same_it_smooths(seed: int) -> None:
    p, flat = evidence(12, 12, seed=seed), torch.zeros(1, 2, 12, 12)
    once, twice = (adaptive_refinement(p, flat, 0.8, iterations=n) for n in (1, 2))
    spread = [float(q.var(dim=(2, 3)).sum()) for q in (p, once, twice)]
    assert spread[0] > 5 * spread[1] > 5 * spread[2]


@settings(max_examples=40)
@given(SEEDS, st.floats(0.1, 10))
def test_the_unit_of_the_bands_does_not_matter_if_sharpness_has_it_too(seed: int, factor: float) -> None:
    p, z = evidence(7, 9, seed=seed), bands(7, 9, seed)
    torch.testing.assert_close(adaptive_refinement(p, z * factor, 0.8 * factor), adaptive_refinement(p, z, 0.8))


def test_noise_falls_inside_regions() -> None:
    z, right = two_regions()
    truth = torch.stack([~right, right])[None].float()
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0)) * 1.2
    noisy = ((truth - 0.5) * 2 + noise).softmax(1)
    refined = adaptive_refinement(noisy, z, 0.8)
    wrong = [float((p.argmax(1)[0] != right).float().mean()) for p in (noisy, refined)]
    assert wrong[0] > 0.05 and wrong[1] < wrong[0] / 10


def test_nothing_leaks_over_a_strong_edge() -> None:
    z, right = two_regions()
    p = torch.stack([torch.where(right, 0.0, 1.0), torch.where(right, 1.0, 0.0)])[None]
    torch.testing.assert_close(adaptive_refinement(p, z, 0.8), p, rtol=0, atol=1e-6)


def test_a_border_in_the_wrong_place_moves_to_the_edge() -> None:
    z, right = two_regions()
    shifted = torch.roll(right, 2, dims=1)
    shifted[:, :4] = False
    p = torch.where(shifted, 0.9, 0.1)
    out = adaptive_refinement(torch.stack([1 - p, p])[None], z, 0.8, iterations=4)[0, 1]
    assert (out > 0.5)[:, 12:].float().mean() > (p > 0.5)[:, 12:].float().mean()
    assert not (out > 0.5)[:, :12].any()


@given(SEEDS, st.integers(1, 2))
@settings(max_examples=20)
def test_a_pixel_is_refined_from_what_lies_within_reach(seed: int, iterations: int) -> None:
    side = 2 * REACH * iterations + 5
    p, z = evidence(side, side, seed=seed), bands(side, side, seed)
    middle, far = side // 2, p.clone()
    inside = torch.zeros(side, side, dtype=torch.bool)
    reach = REACH * iterations
    inside[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1] = True
    far[:, :, ~inside] = 1 / 3
    out, other = (adaptive_refinement(q, z, 0.8, iterations)[0, :, middle, middle] for q in (p, far))
    torch.testing.assert_close(out, other)


def test_the_input_is_not_changed() -> None:
    p, z = evidence(6, 6), bands(6, 6)
    before = p.clone(), z.clone()
    adaptive_refinement(p, z, 0.8)
    assert torch.equal(p, before[0]) and torch.equal(z, before[1])


def test_a_superpixel_has_one_value_and_its_mean() -> None:
    z, right = two_regions()
    p = evidence(24, 24)[0].numpy()
    voted = superpixel_vote(p, z[0].numpy())
    np.testing.assert_allclose(voted.sum(axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(voted.mean(axis=(1, 2)), p.mean(axis=(1, 2)), rtol=1e-4)
    left = {v.tobytes() for v in voted[:, ~right.numpy()].T}
    assert len(left) < 100 and not left & {v.tobytes() for v in voted[:, right.numpy()].T}


@pytest.mark.parametrize("edges", ["adaptive", "superpixels", "none"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (16, 16)])
def test_every_way_works_at_every_size(edges: str, size: tuple[int, int]) -> None:
    p = evidence(*size)[0].numpy()
    out = sharpen(p, bands(*size), EdgeSettings(edges=edges))  # type: ignore[arg-type]
    assert out.shape == p.shape and out.dtype == np.float32
    np.testing.assert_allclose(out.sum(axis=0), 1, rtol=1e-5)
    if edges == "none":
        np.testing.assert_array_equal(out, p)


def test_evidence_beside_nodata_is_not_diluted() -> None:
    model = LandCoverModel(Architecture(2, 3, 16, spectral_width=4, weights={"spectral": 1.0}))
    values = np.zeros((2, 12, 12), np.float32)
    values[:, :, 6:] = np.nan
    certain = np.zeros((3, 12, 12), np.float32)
    certain[1, :, :6] = 1.0
    refined = edge_refiner(model, EdgeSettings())(certain, values)
    np.testing.assert_allclose(refined[:, :, :6], certain[:, :, :6], atol=1e-6)
