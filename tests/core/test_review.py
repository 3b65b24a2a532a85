"""Tags are judged by networks that did not learn them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import torch
from small_models import CUTTING, SCHEME, Diary, write_place

from sparsevit.errors import CancelledError, InputError
from sparsevit.geodata.legend import load_scheme
from sparsevit.geodata.tile_index import ABSENT, PRESENT, UNKNOWN, TileIndex, read_tile_index
from sparsevit.jobs import get_job
from sparsevit.jobs.base import Result
from sparsevit.jobs.review import forget, in_words
from sparsevit.models.hardware import HardwareSettings
from sparsevit.reporting import Reporter
from sparsevit.training.loop import TrainingSettings, make_fabric
from sparsevit.training.mistakes import wrong_probability
from sparsevit.training.phases import ClassifierSettings
from sparsevit.training.review import believed, find_mistakes, judge_tags, surer
from sparsevit.training.tiles import TaggedTiles, TileStore, band_statistics

SIDE, CLASSES, COUNT = 16, 4, 90
FABRIC = make_fabric(HardwareSettings(device="cpu", precision="32-true"))


@pytest.fixture(scope="module")
def right() -> TaggedTiles:
    """Tiles of two halves, each of one of four classes that their bands tell apart; rightly tagged."""
    rng = np.random.default_rng(0)
    halves = rng.integers(0, CLASSES, (COUNT, 2))
    masks = np.repeat(np.repeat(halves[:, None], SIDE // 2, axis=2), SIDE, axis=1)
    store = TileStore((COUNT, CLASSES, SIDE, SIDE))
    store.values[:] = np.eye(CLASSES, dtype=np.float32)[masks].transpose(0, 3, 1, 2)
    store.values[:] += rng.normal(0, 0.3, store.values.shape)
    tags = np.stack([(halves == k).any(axis=1) for k in range(CLASSES)], axis=1)
    return TaggedTiles(store, torch.from_numpy(tags.astype(np.int8)), 0.1)


@pytest.fixture(scope="module")
def noisy(right: TaggedTiles) -> TaggedTiles:
    """The same tiles, of every fourth of which one class is named for another."""
    tags = right.tags.clone()
    for tile in range(0, COUNT, 4):
        swap_class(tags[tile])
    return replace(right, tags=tags)


def swap_class(tags: torch.Tensor) -> None:
    """Name the first absent class in place of the first present one."""
    named, meant = (tags == PRESENT).nonzero()[0], (tags == ABSENT).nonzero()[0]
    tags[named], tags[meant] = ABSENT, PRESENT


def judged(
    tiles: TaggedTiles, held_out: TaggedTiles | None = None, epochs: int = 20
) -> tuple[torch.Tensor, torch.Tensor]:
    settings = ClassifierSettings(spectral_epochs=epochs)
    return judge_tags(tiles, held_out, SIDE, settings, TrainingSettings(), FABRIC, Reporter())


def test_wrong_tags_are_found_and_hardly_any_right_one(right: TaggedTiles, noisy: TaggedTiles) -> None:
    train, held_out = torch.arange(60), torch.arange(60, COUNT)
    probability = torch.cat(judged(noisy.choose(train), noisy.choose(held_out)))
    doubted = wrong_probability(noisy.tags, probability)[0] >= 0.5
    wrong = noisy.tags != right.tags
    for part in (train, held_out):
        found = (doubted & wrong)[part].sum()
        assert found >= 0.7 * wrong[part].sum() and found >= 0.9 * doubted[part].sum()


def looks(tiles: TaggedTiles, held_out: TaggedTiles, epochs: int) -> tuple[torch.Tensor, list[TaggedTiles]]:
    """How probably each tag is wrong, and the tiles that the networks of each look learned."""
    learned: list[TaggedTiles] = []

    def judge(tiles: TaggedTiles, _: Reporter) -> torch.Tensor:
        learned.append(tiles)
        return surer(torch.cat(judged(tiles, held_out, epochs)))

    wrong, _ = find_mistakes(tiles, held_out, judge, Reporter())
    return wrong, learned


def test_a_second_look_learns_better_tags_and_judges_those_given(right: TaggedTiles, noisy: TaggedTiles) -> None:
    train, held_out = torch.arange(60), torch.arange(60, COUNT)
    told, (first, second) = looks(noisy.choose(train), noisy.choose(held_out), epochs=8)
    wrong = noisy.tags != right.tags
    assert torch.equal(first.tags, noisy.tags[train])
    assert (second.tags == 1 - right.tags[train]).sum() < 0.5 * wrong[train].sum()
    seen = torch.cat(judged(second, noisy.choose(held_out), epochs=8))
    assert torch.equal(told, wrong_probability(noisy.tags, surer(seen))[0])


def test_one_look_is_enough_where_nothing_is_doubted(right: TaggedTiles) -> None:
    train, held_out = torch.arange(60), torch.arange(60, COUNT)
    told, learned = looks(right.choose(train), right.choose(held_out), epochs=20)
    assert len(learned) == 1 and told.shape == right.tags.shape and (told < 0.5).all()


def test_the_contrary_is_learned_of_tags_that_are_surely_wrong() -> None:
    tags = torch.tensor([[1, 0, 1], [1, 0, -1], [0, 1, 0]], dtype=torch.int8)
    wrong = torch.tensor([[0.9, 0.6, 0.9], [0.1, 0.85, 0.0], [0.2, 0.1, 0.81]])
    # No tile but the first has the third class: it keeps its tag.
    expected = [[0, UNKNOWN, 1], [1, 1, UNKNOWN], [0, 1, 1]]
    assert believed(tags, wrong).tolist() == expected and believed(tags, wrong).dtype == torch.int8


def test_a_tile_has_no_say_in_what_becomes_of_its_tags(noisy: TaggedTiles) -> None:
    before = judged(noisy, epochs=2)[0]
    tags = noisy.tags.clone()
    tags[7] = 1 - tags[7]
    after = judged(replace(noisy, tags=tags), epochs=2)[0]
    assert torch.equal(before[7], after[7])
    assert not torch.equal(before, after)  # the others heard of it


def test_where_bands_tell_nothing_a_class_is_as_probable_as_it_is_frequent() -> None:
    frequencies = torch.tensor([0.1, 0.3, 0.5, 1.0])
    order = torch.stack([torch.randperm(COUNT, generator=torch.Generator().manual_seed(k)) for k in range(CLASSES)], 1)
    store = TileStore((COUNT, CLASSES, SIDE, SIDE))
    store.values[:] = np.random.default_rng(0).normal(0, 1, store.values.shape)
    tags = (order < frequencies * COUNT).to(torch.int8)
    mean = judged(TaggedTiles(store, tags, 0.1))[0].mean(dim=0)
    torch.testing.assert_close(mean[:3], frequencies[:3], atol=0.07, rtol=0)  # 0.23 for the first without


def test_networks_are_surer_than_they_say_but_no_other_opinion() -> None:
    said = torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0])
    told = surer(said)
    assert torch.isfinite(told).all() and told[2] == 0.5
    assert told[1] == pytest.approx(1 / (1 + 4**1.5)) and told[3] == pytest.approx(1 - told[1])


def test_chosen_tiles_are_those_tiles(right: TaggedTiles) -> None:
    part = right.choose(torch.arange(COUNT) % 3 == 1).choose(torch.tensor([4, 0]))
    assert len(part) == len(part.store) == 2
    assert torch.equal(part.store.batch(torch.arange(2)), right.store.batch(torch.tensor([13, 1])))
    assert torch.equal(part.tags, right.tags[[13, 1]])
    mean, std = band_statistics(part.store)
    values = right.store.values[[13, 1]]
    np.testing.assert_allclose(mean.numpy(), values.mean(axis=(0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(std.numpy(), values.std(axis=(0, 2, 3)), rtol=1e-4)


def test_doubts_are_told_in_words() -> None:
    scheme = load_scheme(SCHEME).subset([1, 6, 10])
    tags = np.array([[PRESENT, ABSENT, ABSENT], [ABSENT, ABSENT, PRESENT]], np.int8)
    doubted = np.array([[True, False, True], [False] * 3])
    assert in_words(tags, doubted, scheme) == ["Forest present, Water absent", None]


def test_no_class_loses_all_tiles_to_learn_it_from() -> None:
    scheme, diary = load_scheme(SCHEME).subset([1, 6]), Diary()
    frame = geopandas.GeoDataFrame({"split": ["train", "train", "validation"]})
    given = np.array([[1, 1], [1, 0], [0, 1]], np.int8)
    wrong = np.array([[0.7, 0.9], [0.2, 0.1], [0.3, 0.0]])
    index, forgotten = forget(TileIndex(frame, [], [], 640.0).with_tags(scheme, given, 0.1), wrong, scheme, diary)
    assert index.tags().tolist() == [[UNKNOWN, 1], [1, 0], [0, 1]] and forgotten == 1
    assert len(diary.lines) == 1 and diary.lines[0].startswith("All training tiles with Croplands look wrong")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tagged index in which a class of every eighth training tile is named for another."""
    folder = tmp_path_factory.mktemp("review")
    scene, classes = write_place(folder, 160)
    path = folder / "tiles.gpkg"
    get_job("tiles").execute({"scene": [str(scene)], "output": str(path), "test_share": 0.2, **CUTTING}, Reporter())
    tag = {"tiles": str(path), "scheme": str(SCHEME), "source": "raster", "raster": str(classes)}
    get_job("tag").execute(tag, Reporter())
    index = read_tile_index(path)
    tags = index.tags()
    for tile in wrong_tiles(index):
        swap_class(torch.from_numpy(tags[tile]))
    index.retagged(tags).write(path)
    return path


def wrong_tiles(index: TileIndex) -> list[int]:
    train = np.flatnonzero(index.frame["split"] == "train")
    some, other = (index.tags()[train] == PRESENT).any(axis=1), (index.tags()[train] == ABSENT).any(axis=1)
    return train[some & other][::8].tolist()


def review(path: Path, reporter: Reporter | None = None, **params: Any) -> Result:
    request = {"tiles": str(path), "device": "cpu", "precision": "32-true", "review_epochs": 15, **params}
    return get_job("review").execute(request, reporter or Reporter())


def test_wrong_tags_are_shown_and_nothing_forgotten_unless_wanted(place: Path, tmp_path: Path) -> None:
    before, output, diary = read_tile_index(place), tmp_path / "reviewed.gpkg", Diary()
    result = review(place, diary, output=str(output)).model_dump()
    after, wrong = read_tile_index(output), wrong_tiles(before)
    assert np.array_equal(after.tags(), before.tags()) and after.presence_threshold == 0.1
    frame = after.frame
    found = frame.iloc[wrong]["review_doubts"].notna()
    assert found.sum() >= 0.8 * len(wrong) and found.sum() >= 0.9 * frame["review_doubts"].notna().sum()
    reviewed = frame["split"].isin(["train", "validation"])
    assert (frame["review_wrong"].notna() == reviewed).all() and reviewed.any() and not reviewed.all()
    doubts = frame["review_doubts"].notna()
    assert (doubts == (frame["review_wrong"] >= 0.5)).all()
    assert result["doubted_tiles"] == doubts.sum() and result["forgotten"] == 0
    assert set(result["first"]) == set(frame["tile_id"][doubts].astype(str))
    assert result["first"][0] == str(frame["tile_id"][frame["review_wrong"].idxmax()])
    assert result["judged"] == reviewed.sum() * len(before.scheme.classes if before.scheme else [])
    assert any("tags look wrong" in line and "named as another" in line for line in diary.lines)
    again = tmp_path / "again.gpkg"
    review(output, output=str(again))  # a second review takes the place of the first
    assert read_tile_index(again).frame.equals(frame)


def test_forgotten_tags_are_unknown_and_all_others_as_before(place: Path, tmp_path: Path) -> None:
    before, output = read_tile_index(place), tmp_path / "reviewed.gpkg"
    result = review(place, output=str(output), forget=True).model_dump()
    after = read_tile_index(output)
    lost = after.tags() != before.tags()
    assert lost.sum() == result["forgotten"] == result["doubted"]
    assert lost[wrong_tiles(before)].any(axis=1).mean() >= 0.8
    assert (after.tags()[lost] == UNKNOWN).all()
    assert [t.tolist() for t in lost.any(axis=1).nonzero()] == [
        t.tolist() for t in after.frame["review_doubts"].notna().to_numpy().nonzero()
    ]


def test_other_tags_are_no_longer_those_that_were_reviewed(place: Path, tmp_path: Path) -> None:
    output = tmp_path / "reviewed.gpkg"
    review(place, output=str(output))
    before = read_tile_index(output)
    get_job("tag").execute({"tiles": str(output), "scheme": str(SCHEME), "source": "fields"}, Reporter())
    after = read_tile_index(output)
    assert np.array_equal(after.tags(), before.tags())
    assert set(before.frame) - set(after.frame) == {"review_wrong", "review_doubts"}


def test_a_review_that_is_cancelled_leaves_the_index_as_it_was(place: Path) -> None:
    before = place.read_bytes()
    with pytest.raises(CancelledError):
        review(place, Diary(0.5), forget=True)
    assert place.read_bytes() == before


def test_an_index_without_tags_is_refused(tmp_path: Path) -> None:
    scene, _ = write_place(tmp_path)
    path = tmp_path / "tiles.gpkg"
    get_job("tiles").execute({"scene": [str(scene)], "output": str(path), **CUTTING}, Reporter())
    with pytest.raises(InputError, match="no tags") as raised:
        review(path)
    assert raised.value.parameter == "tiles" and raised.value.hint


def test_too_few_tiles_to_judge_one_by_the_others_are_refused(place: Path, tmp_path: Path) -> None:
    index = read_tile_index(place)
    tags, training = index.tags(), np.flatnonzero(index.frame["split"] == "train")
    tags[training[2:]] = UNKNOWN
    tags[training[0]], tags[training[1]] = PRESENT, ABSENT
    index.retagged(tags).write(tmp_path / "two.gpkg")
    with pytest.raises(InputError, match=r"two\.gpkg has 2 tagged training tile") as raised:
        review(tmp_path / "two.gpkg")
    assert raised.value.parameter == "tiles" and raised.value.hint
