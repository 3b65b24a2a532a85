"""Flips and turns: one symmetry of the square for everything that lies on the same pixels."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsevit.training.augment import random_dihedral


def symmetries(x: Tensor) -> list[Tensor]:
    """The eight symmetries of a square `[…, H, W]`."""
    return [x.rot90(k, (-2, -1)) for k in range(4)] + [x.flip(-1).rot90(k, (-2, -1)) for k in range(4)]


def coordinates(side: int, count: int) -> Tensor:
    """Tiles whose two bands are the row and the column of each pixel."""
    rows, cols = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([rows, cols]).expand(count, -1, -1, -1).float()


@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 999))
def test_all_tensors_take_the_same_transform(side: int, count: int, seed: int) -> None:
    places = coordinates(side, count)
    mask = (places[:, 0] * side + places[:, 1]).long()
    radar = places.repeat(1, 2, 1, 1) + 0.5
    out = random_dihedral([places, mask, radar], torch.Generator().manual_seed(seed))
    assert [o.shape for o in out] == [places.shape, mask.shape, radar.shape]
    assert out[1].dtype == torch.int64
    assert torch.equal(out[1], (out[0][:, 0] * side + out[0][:, 1]).long())
    assert torch.equal(out[2], out[0].repeat(1, 2, 1, 1) + 0.5)


@given(st.integers(2, 9), st.integers(0, 999))
def test_each_tile_becomes_one_of_its_eight_symmetries(side: int, seed: int) -> None:
    places = coordinates(side, 5)
    (out,) = random_dihedral([places], torch.Generator().manual_seed(seed))
    for before, after in zip(places, out, strict=True):
        assert any(torch.equal(after, s) for s in symmetries(before))


def test_all_eight_symmetries_are_drawn_about_equally_often() -> None:
    places = coordinates(3, 4000)
    (out,) = random_dihedral([places], torch.Generator().manual_seed(0))
    counts = [int((out == s).flatten(1).all(1).sum()) for s in symmetries(places[0])]
    assert sum(counts) == 4000
    assert min(counts) > 400


@given(st.integers(0, 999))
def test_class_fractions_do_not_change(seed: int) -> None:
    mask = torch.randint(0, 3, (4, 6, 6), generator=torch.Generator().manual_seed(seed))
    (out,) = random_dihedral([mask], torch.Generator().manual_seed(seed))
    for k in range(3):
        assert torch.equal((out == k).sum((1, 2)), (mask == k).sum((1, 2)))


def test_the_same_seed_draws_the_same() -> None:
    places = coordinates(4, 20)
    first, second = (random_dihedral([places], torch.Generator().manual_seed(3))[0] for _ in range(2))
    assert torch.equal(first, second)


def test_nodata_stays_on_its_pixels() -> None:
    tile = coordinates(4, 3).clone()
    tile[:, :, 0, 1] = torch.nan
    for _ in range(8):
        assert int(random_dihedral([tile])[0].isnan().sum()) == 6
