"""What the networks see of raw values: statistics of the training tiles, and bands standardised by them."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import tiny_architecture

from sparsevit.errors import InputError
from sparsevit.models.landcover import CLIP_SIGMA, LandCoverModel
from sparsevit.training.tiles import TileStore, band_statistics

LEVELS = torch.tensor([400.0, 3000.0, -12.0])
SPREADS = torch.tensor([50.0, 800.0, 3.0])


def store_of(values: np.ndarray) -> TileStore:
    store = TileStore(values.shape)
    store.values[:] = values
    return store


def noise(count: int = 5, side: int = 6, seed: int = 0) -> np.ndarray:
    """Tiles `[N, 3, H, W]` whose bands differ in level and spread."""
    drawn = np.random.default_rng(seed).normal(0, 1, (count, 3, side, side))
    return (drawn * SPREADS[:, None, None].numpy() + LEVELS[:, None, None].numpy()).astype(np.float32)


def model_of(mean: torch.Tensor = LEVELS, std: torch.Tensor = SPREADS) -> LandCoverModel:
    model = LandCoverModel(tiny_architecture())
    model.mean.copy_(mean)
    model.std.copy_(std)
    return model


def test_statistics_are_those_of_the_valid_pixels_of_all_tiles() -> None:
    values = noise()
    values[0, 0, :4] = values[2] = np.nan  # one band of a tile in part, and a whole tile
    values[4, 2, 0, 0] = np.inf
    mean, std = band_statistics(store_of(values))
    for k in range(3):
        valid = values[:, k][np.isfinite(values[:, k])].astype(np.float64)
        assert mean[k] == pytest.approx(valid.mean(), rel=1e-5) and std[k] == pytest.approx(valid.std(), rel=1e-4)


def test_a_small_spread_at_a_high_level_is_not_lost_in_rounding() -> None:
    values = noise()
    values[:, 1] = np.where(np.arange(6) % 2, 60_001, 60_000)
    assert band_statistics(store_of(values))[1][1] == pytest.approx(0.5, rel=1e-3)


def test_a_constant_band_is_normalised_to_zero() -> None:
    values = noise()
    values[:, 1] = 7
    mean, std = band_statistics(store_of(values))
    assert mean[1] == 7 and std[1] == pytest.approx(1e-6)
    assert (model_of(mean, std).normalise(torch.from_numpy(values))[:, 1] == 0).all()


def test_a_band_without_valid_pixels_is_refused() -> None:
    values = noise()
    values[:, 2] = np.nan
    with pytest.raises(InputError, match="no valid pixel") as raised:
        band_statistics(store_of(values))
    assert raised.value.parameter == "tiles"


def test_reading_tiles_holds_no_more_than_a_batch_in_memory() -> None:
    store = TileStore((256, 10, 64, 64))
    batch = store.values[:16].nbytes
    tracemalloc.start()
    for positions in torch.arange(len(store)).split(16):
        store.batch(positions)
    band_statistics(store)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * batch < store.values.nbytes / 4


def test_the_training_tiles_have_mean_zero_and_spread_one() -> None:
    values = noise(20)
    z = model_of(*band_statistics(store_of(values))).normalise(torch.from_numpy(values))
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(z.std((0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-3)


@given(st.floats(-20, 20), st.integers(0, 99))
def test_a_raw_value_means_the_same_in_every_tile(sigmas: float, seed: int) -> None:
    x = torch.from_numpy(noise(2, seed=seed))
    x[1] = 5 * x[1] + 100  # a brighter tile of more contrast
    x[:, :, 2, 3] = LEVELS + sigmas * SPREADS
    here, there = model_of().normalise(x)[:, :, 2, 3]
    expected = min(max(sigmas, -CLIP_SIGMA), CLIP_SIGMA)
    assert torch.equal(here, there)
    torch.testing.assert_close(here, torch.full((3,), expected), rtol=1e-4, atol=1e-3)


def test_nodata_becomes_the_mean_and_nothing_else_changes() -> None:
    x = torch.from_numpy(noise(2))
    gaps = x.clone()
    gaps[0, 1, :3] = torch.nan
    full, z = model_of().normalise(x), model_of().normalise(gaps)
    assert (z[0, 1, :3] == 0).all()
    assert torch.equal(z[~gaps.isnan()], full[~gaps.isnan()])
    gaps[1] = torch.tensor([torch.inf, -torch.inf, torch.nan])[:, None, None]
    assert model_of().normalise(gaps).isfinite().all()
