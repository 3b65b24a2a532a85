"""The presence threshold of tags is learned from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import CUTTING, REFINING, SCHEME, TRAINING, Diary, tiny_architecture, write_place

from sparsevit.geodata.tile_index import read_tile_index
from sparsevit.jobs import get_job
from sparsevit.jobs import refine as refine_job
from sparsevit.jobs.base import Result
from sparsevit.models.hardware import HardwareSettings
from sparsevit.models.model_file import read_card
from sparsevit.reporting import Reporter
from sparsevit.training import review
from sparsevit.training.classifier import untrained
from sparsevit.training.loop import TrainingSettings, make_fabric
from sparsevit.training.phases import ClassifierSettings, ClassifierTraining
from sparsevit.training.refinement import Refinement
from sparsevit.training.threshold import HIGHEST, LOWEST, WithThreshold
from sparsevit.training.tiles import TaggedTiles, TileStore, band_statistics

SIDE, CLASSES = 16, 5
FABRIC = make_fabric(HardwareSettings(device="cpu", precision="32-true"))


def job(name: str, **params: Any) -> Result:
    """Run a job of the engine."""
    return get_job(name).execute(params, Reporter())


def tiles_tagged_from(threshold: float, count: int = 96) -> TaggedTiles:
    """Tiles of five classes, plain from their bands, in shares of all sizes; tagged from a threshold, believed 10 %."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(CLASSES, 0.25), count)
    masks = np.stack([rng.choice(CLASSES, (SIDE, SIDE), p=p) for p in shares])
    store = TileStore((count, CLASSES, SIDE, SIDE))
    store.values[:] = np.eye(CLASSES, dtype=np.float32)[masks].transpose(0, 3, 1, 2)
    store.values[:] += rng.normal(0, 0.3, store.values.shape)
    covered = np.stack([(masks == k).mean(axis=(1, 2)) for k in range(CLASSES)], axis=1)
    return TaggedTiles(store, torch.from_numpy((covered >= threshold).astype(np.int8)), 0.1)


def learned(tiles: TaggedTiles, known: bool = False, reporter: Reporter | None = None) -> float:
    """The threshold after training the spectral network."""
    tiles = replace(tiles, threshold_known=known)
    architecture = replace(tiny_architecture(CLASSES, CLASSES, SIDE), vit=None, weights={"spectral": 1.0})
    model = untrained(architecture, band_statistics(tiles.store), 0, FABRIC)
    run = ClassifierTraining(model, tiles, TrainingSettings(), FABRIC, None)
    run.spectral(ClassifierSettings(spectral_epochs=60), reporter or Reporter())
    assert run.tiles.threshold_known
    return run.tiles.presence_threshold


@pytest.mark.parametrize("believed", [0.001, 0.9])
def test_a_belief_beyond_the_bounds_can_still_be_corrected(believed: float) -> None:
    assert 0.03 < learned(replace(tiles_tagged_from(0.1), presence_threshold=believed)) < 0.3


@pytest.mark.parametrize("threshold", [0.03, 0.3])
def test_the_threshold_that_tags_follow_is_found_from_another_belief(threshold: float) -> None:
    assert threshold / 2 < learned(tiles_tagged_from(threshold)) < threshold * 2


def test_a_threshold_that_is_known_stays() -> None:
    assert learned(tiles_tagged_from(0.3), known=True) == 0.1


def test_tags_that_only_name_what_is_there_teach_no_threshold() -> None:
    tiles, diary = tiles_tagged_from(0.3), Diary()
    only_present = torch.where(tiles.tags == 1, tiles.tags, -torch.ones_like(tiles.tags))
    assert learned(replace(tiles, tags=only_present), reporter=diary) == 0.1
    assert len(diary.lines) == 1 and "10.0% of a tile holds. Tag tiles completely, or tell" in diary.lines[0]


@pytest.mark.parametrize(("start", "bound"), [(0.0001, LOWEST), (0.9, HIGHEST)])
def test_a_threshold_stays_within_its_bounds(start: float, bound: float) -> None:
    tiles = replace(tiles_tagged_from(0.1, 8), presence_threshold=start)
    assert WithThreshold(torch.nn.Identity(), tiles).threshold.item() == pytest.approx(bound)


def test_networks_that_judge_tags_learn_the_threshold_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles, diary, believed = tiles_tagged_from(0.3), Diary(), []
    real = review._presence

    def presence(run: ClassifierTraining, judged: TaggedTiles) -> torch.Tensor:
        believed.append(run.tiles.presence_threshold)
        return real(run, judged)

    monkeypatch.setattr(review, "_presence", presence)
    settings, unknown = ClassifierSettings(spectral_epochs=40), replace(tiles, threshold_known=False)
    review.judge_tags(unknown, tiles, SIDE, settings, TrainingSettings(), FABRIC, diary)
    assert len(set(believed)) == 1 and believed[0] != 0.1
    assert sum("tagged from" in line for line in diary.lines) == 1


def test_what_a_classifier_learned_of_its_tags_holds_for_the_refinement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, classes = write_place(tmp_path)
    tiles, model, masks = tmp_path / "tiles.gpkg", tmp_path / "c.safetensors", tmp_path / "masks.tif"
    job("tiles", scene=[str(scene)], output=str(tiles), **CUTTING)
    job("tag", tiles=str(tiles), scheme=str(SCHEME), source="raster", raster=str(classes))
    replace(read_tile_index(tiles), presence_threshold=None).write(tiles)
    result = job("train", tiles=str(tiles), output=str(model), **TRAINING)
    learned_threshold = result.model_dump()["presence_threshold"]
    assert learned_threshold != 0.1 and read_card(model).presence_threshold == learned_threshold
    job("pseudomask", model=str(model), tiles=str(tiles), output=str(masks), device="cpu")
    believed = []
    real = refine_job.refine

    def refine(*arguments: Any) -> Refinement:
        believed.extend(t.presence_threshold for t in arguments if isinstance(t, TaggedTiles))
        return real(*arguments)

    monkeypatch.setattr(refine_job, "refine", refine)
    files = {"tiles": str(tiles), "classifier": str(model), "pseudomask": str(masks)}
    job("refine", **files, output=str(tmp_path / "m.safetensors"), **REFINING, device="cpu")
    assert believed == [learned_threshold] * 2
