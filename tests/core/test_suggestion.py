"""Tiles are suggested by what their tags would tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import CUTTING, SCHEME, TRAINING, Diary, tagged_tiles, tiny_model, write_place

from sparsevit.errors import CancelledError, InputError
from sparsevit.geodata.tile_index import UNKNOWN, read_tile_index
from sparsevit.jobs import get_job
from sparsevit.models.hardware import HardwareSettings
from sparsevit.reporting import Reporter
from sparsevit.training.loop import make_fabric
from sparsevit.training.suggestion import binary_entropy, committee, information

FABRIC = make_fabric(HardwareSettings(device="cpu", precision="32-true"))


def test_entropy_is_in_bits() -> None:
    p = torch.tensor([0.0, 0.11, 0.5, 0.89, 1.0])
    assert torch.allclose(binary_entropy(p), torch.tensor([0.0, 0.4999, 1.0, 0.4999, 0.0]), atol=1e-4)


def test_members_that_agree_leave_only_entropy_and_sure_ones_that_differ_only_disagreement() -> None:
    agree = information(torch.full((3, 1, 1), 0.5))
    assert agree.entropy.item() == pytest.approx(1) and agree.disagreement.item() == pytest.approx(0)
    differ = information(torch.tensor([0.0, 1.0]).view(2, 1, 1))
    assert differ.entropy.item() == pytest.approx(1) and differ.disagreement.item() == pytest.approx(1)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000))
def test_disagreement_is_between_zero_and_the_entropy(seed: int) -> None:
    told = information(torch.rand(4, 6, 3, generator=torch.Generator().manual_seed(seed)))
    assert (told.disagreement >= 0).all() and (told.disagreement <= told.entropy + 1e-5).all()
    assert (told.entropy <= 3 + 1e-5).all()


def test_the_committee_is_the_classifier_and_it_without_each_head() -> None:
    model, (tiles, _) = tiny_model(3, side=8), tagged_tiles(5)
    assert model.vit is not None
    before = {k: v.clone() for k, v in model.state_dict().items()}
    p = committee(model, tiles.store, 0.1, FABRIC, Reporter())
    assert p.shape == (1 + sum(model.vit.config.heads), 5, 3) and ((p > 0) & (p < 1)).all()
    assert len(torch.unique(p[:, 0, 0])) == len(p)  # every head matters to some digit
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(committee(model, tiles.store, 0.1, FABRIC, Reporter()), p)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An index of which half the training tiles are tagged, and a classifier trained on them."""
    folder = tmp_path_factory.mktemp("suggest")
    scene, classes = write_place(folder)
    index, model = folder / "tiles.gpkg", folder / "classifier.safetensors"
    get_job("tiles").execute({"scene": [str(scene)], "output": str(index), **CUTTING}, Reporter())
    tag = {"tiles": str(index), "scheme": str(SCHEME), "source": "raster", "raster": str(classes)}
    get_job("tag").execute(tag, Reporter())
    tagged = read_tile_index(index)
    tags = tagged.tags()
    tags[1::2] = UNKNOWN
    tagged.retagged(tags).write(index)
    get_job("train").execute({"tiles": str(index), "output": str(model), **TRAINING}, Reporter())
    return index, model


def suggest(place: tuple[Path, Path], output: Path | None = None, reporter: Reporter | None = None) -> dict[str, Any]:
    params = {"tiles": str(place[0]), "classifier": str(place[1]), "device": "cpu", "precision": "32-true"}
    if output:
        params["output"] = str(output)
    return get_job("suggest").execute(params, reporter or Reporter()).model_dump()


def test_untagged_training_tiles_are_ranked_by_their_bits(place: tuple[Path, Path], tmp_path: Path) -> None:
    result = suggest(place, tmp_path / "ranked.gpkg")
    index = read_tile_index(tmp_path / "ranked.gpkg")
    free = ~index.tagged() & (index.frame["split"] == "train").to_numpy()
    ranks = index.frame["suggest_rank"].to_numpy(float, na_value=np.nan)
    assert result["ranked"] == free.sum() > 3
    assert (np.isfinite(ranks) == free).all()
    assert sorted(ranks[free]) == list(range(1, free.sum() + 1))
    ordered = index.frame[free].sort_values("suggest_rank")
    assert (np.diff(ordered["suggest_bits"]) <= 0).all()
    bits = ordered["suggest_entropy"] + ordered["suggest_disagreement"]
    assert np.allclose(ordered["suggest_bits"], bits)
    assert result["first"] == ordered["tile_id"].astype(str).tolist()[:20]
    assert "suggest_rank" not in read_tile_index(place[0]).frame  # the input is untouched


def test_suggesting_again_replaces_the_former_ranks(place: tuple[Path, Path], tmp_path: Path) -> None:
    once, twice = tmp_path / "once.gpkg", tmp_path / "twice.gpkg"
    suggest(place, once)
    suggest((once, place[1]), twice)
    first, second = (read_tile_index(p).frame for p in (once, twice))
    assert list(first.columns) == list(second.columns)
    assert first["suggest_rank"].equals(second["suggest_rank"])


def test_what_cannot_be_suggested_is_refused(place: tuple[Path, Path], tmp_path: Path) -> None:
    index = read_tile_index(place[0])
    assert index.scheme is not None
    full = tmp_path / "full.gpkg"
    index.with_tags(index.scheme, np.zeros_like(index.tags()), 0.1).write(full)
    with pytest.raises(InputError, match="is tagged"):
        suggest((full, place[1]))
    coarse = tmp_path / "coarse.gpkg"
    get_job("tiles").execute(
        {"scene": [str(p) for p in index.scene], "output": str(coarse), **CUTTING, "tile_size_m": 320}, Reporter()
    )
    with pytest.raises(InputError, match="32 pixels"):
        suggest((coarse, place[1]))
    with pytest.raises(InputError, match="does not exist"):
        suggest((place[0], tmp_path / "none.safetensors"))


def test_a_cancelled_suggestion_writes_nothing(place: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(CancelledError):
        suggest(place, tmp_path / "ranked.gpkg", Diary(stop_at=0.5))
    assert not list(tmp_path.iterdir())
