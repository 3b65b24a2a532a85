"""The study of heads: who is chosen, how it is scored, and what the report says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import CUTTING, PHASES, SCHEME, Diary, tagged_tiles, tiny_architecture, write_place
from small_rasters import write_raster

from sparsevit.assessment.study_report import Spread, beats, fewest_heads
from sparsevit.errors import InputError
from sparsevit.jobs import get_job
from sparsevit.models.hardware import HardwareSettings
from sparsevit.reporting import Reporter
from sparsevit.training.classifier import untrained
from sparsevit.training.head_budget import best_mask
from sparsevit.training.head_study import ALL_HEADS, METHODS, NO_HEADS, Truth, map_miou, study_heads
from sparsevit.training.loop import TrainingSettings, make_fabric, seed_for
from sparsevit.training.phases import ClassifierSettings, ClassifierTraining
from sparsevit.training.refinement import RefinementSettings

FABRIC = make_fabric(HardwareSettings(device="cpu", precision="32-true"))
STATISTICS = (torch.zeros(3), torch.ones(3))
TILES, MASKS = tagged_tiles(24)
HELD_OUT, HELD_OUT_MASKS = tagged_tiles(8, seed=1)
SHORT = ClassifierSettings(epochs=2, gate_epochs=2, finetune_epochs=1, spectral_epochs=2)
BATCH = TrainingSettings(batch=8)


# --- choosing ---------------------------------------------------------------------------------------------------------


def test_the_best_heads_are_chosen_over_all_blocks() -> None:
    mask = best_mask([torch.tensor([0.1, 0.9, 0.2]), torch.tensor([0.8, 0.3])], 3)
    assert [m.tolist() for m in mask] == [[False, True, False], [True, True]]
    assert [m.tolist() for m in best_mask([torch.ones(2), torch.ones(2)], 3)] == [[True, True], [True, False]]


def test_a_head_that_does_nothing_is_the_least_important() -> None:
    model = untrained(tiny_architecture(), STATISTICS, 0, FABRIC)
    assert model.vit is not None
    with torch.no_grad():
        model.vit.blocks[0].attn.proj.weight[:, 8:] = 0  # nothing of the second head's output is used
    scores = ClassifierTraining(model, TILES, BATCH, FABRIC, None).importance(model.vit)
    assert scores[0][1] == 0 and scores[0][0] == pytest.approx(1) and (scores[1] > 0).all()
    assert scores[1].norm() == pytest.approx(1)
    assert all(p.grad is None for p in model.vit.parameters())
    output = model.vit(model.normalise(TILES.store.batch(torch.arange(2))))
    assert output.tags.isfinite().all() and not model.vit.gates()[0]._forward_hooks


def test_importance_is_the_gradient_of_the_loss_by_the_gates() -> None:
    model = untrained(tiny_architecture(), STATISTICS, 0, FABRIC)
    vit = model.vit
    assert vit is not None
    few, _ = tagged_tiles(4)
    run = ClassifierTraining(model, few, BATCH, FABRIC, None)
    scores = run.importance(vit)

    def loss(block: int, head: int, gate: float) -> float:
        hook = vit.gates()[block].register_forward_hook(
            lambda *_: torch.where(torch.arange(2) == head, gate, torch.ones(()))
        )
        torch.manual_seed(seed)
        z, valid, tags = run._batch(torch.arange(4))
        value = run.tag_losses(vit(z), valid, tags)
        hook.remove()
        return float(value.detach())

    seed = seed_for(BATCH, "importance", 0)
    slopes = torch.tensor([[abs(loss(b, h, 1.02) - loss(b, h, 0.98)) / 0.04 for h in range(2)] for b in range(2)])
    expected = slopes / slopes.norm(dim=1, keepdim=True)
    torch.testing.assert_close(torch.stack(scores), expected, atol=0.02, rtol=0.02)


# --- scoring ----------------------------------------------------------------------------------------------------------


def test_miou_is_the_mean_over_the_classes_of_the_reference() -> None:
    model = untrained(replace(tiny_architecture(), vit=None, weights={"spectral": 1.0}), STATISTICS, 0, FABRIC)

    class Known(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return 50 * z  # the tiles' bands are the classes, one-hot with a little noise

    model.spectral = Known()  # type: ignore[assignment]
    assert map_miou(model, HELD_OUT, HELD_OUT_MASKS, FABRIC, batch=3) == 1
    partly = HELD_OUT_MASKS.clone()
    partly[partly == 2] = -1  # unknown, so that class 2 does not count
    assert map_miou(model, HELD_OUT, partly, FABRIC) == 1
    swapped = torch.where(HELD_OUT_MASKS == 0, 1, torch.where(HELD_OUT_MASKS == 1, 0, 2))
    assert map_miou(model, HELD_OUT, swapped, FABRIC) == pytest.approx(1 / 3)


def study(**changes: Any) -> list[Any]:
    values: dict[str, Any] = {
        "architecture": tiny_architecture(),
        "tiles": TILES,
        "validation": HELD_OUT,
        "truth": None,
        "shares": [0.5, 0.25],
        "seeds": 2,
        "settings": SHORT,
        "training": BATCH,
        "fabric": FABRIC,
        "reporter": Reporter(),
    }
    return study_heads(**(values | changes))


def test_every_method_has_exactly_the_heads_asked_for_and_the_same_number_of_epochs() -> None:
    diary = Diary()
    points = study(reporter=diary)
    kept = {1.0: 4, 0.0: 0, 0.5: 2, 0.25: 1}
    assert [(p.seed, p.method, p.share, p.heads) for p in points] == [
        (seed, method, share, kept[share])
        for seed in (0, 1)
        for share, methods in ((1.0, (ALL_HEADS,)), (0.0, (NO_HEADS,)), (0.5, METHODS), (0.25, METHODS))
        for method in methods
    ]
    assert all(np.isfinite([p.macro_f1, p.mean_ap, p.tag_loss]).all() and p.miou is None for p in points)
    epochs = {name: len(values) for name, values in diary.metrics.items()}
    assert epochs["transformer_loss"] == 2 * 2
    assert epochs[f"{ALL_HEADS}_loss"] == 2 * 3  # gates and fine-tuning of the learned ones together
    assert epochs[f"{NO_HEADS}_loss"] == 2 * 3
    assert epochs["gates_loss"] + epochs["surviving_heads_loss"] == epochs["random heads_loss"] == 2 * 2 * 3
    assert epochs["Taylor importance_loss"] == epochs["random heads_loss"]
    assert diary.fractions == sorted(diary.fractions) and diary.fractions[-1] == 1


def test_without_any_shares_all_heads_are_compared_with_none() -> None:
    assert [(p.method, p.heads) for p in study(shares=[], seeds=1)] == [(ALL_HEADS, 4), (NO_HEADS, 0)]


def test_seeds_differ_and_repeat() -> None:
    first, second = study(shares=[0.5]), study(shares=[0.5])
    assert first == second
    assert {p.tag_loss for p in first if p.seed == 0}.isdisjoint(p.tag_loss for p in first if p.seed == 1)


def test_with_a_reference_maps_are_scored_and_refined() -> None:
    truth = Truth(HELD_OUT_MASKS, RefinementSettings(rounds=1, refine_epochs=1))
    points = study(truth=truth, shares=[0.5], seeds=1)
    assert all(0 <= p.miou <= 1 and 0 <= p.refined_miou <= 1 for p in points)


# --- the report -------------------------------------------------------------------------------------------------------


def spread(method: str, heads: int, f1: float, sd: float = 0.01) -> Spread:
    return Spread(method, heads / 24, heads, f1, sd, f1, sd)


def test_the_fewest_heads_are_those_within_half_a_point() -> None:
    rows = [spread("learned gates", n, f) for n, f in ((12, 0.81), (7, 0.7951), (2, 0.79))]
    whole = spread(ALL_HEADS, 24, 0.8)
    fewest = fewest_heads(rows, whole, "learned gates")
    assert fewest is not None and fewest.heads == 7
    assert fewest_heads(rows, whole, "random heads") is None
    assert fewest_heads(rows, spread(ALL_HEADS, 24, 0.9), "learned gates") is None


def test_gates_beat_chance_only_beyond_the_spread() -> None:
    assert beats(spread("a", 7, 0.82, 0.01), spread("b", 7, 0.80, 0.015))
    assert not beats(spread("a", 7, 0.81, 0.01), spread("b", 7, 0.80, 0.015))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("study")
    scene, classes = write_place(folder)
    index = folder / "tiles.gpkg"
    get_job("tiles").execute({"scene": [str(scene)], "output": str(index), **CUTTING}, Reporter())
    tag = {"tiles": str(index), "scheme": str(SCHEME), "source": "raster", "raster": str(classes)}
    get_job("tag").execute(tag, Reporter())
    return {"tiles": index, "reference": classes}


def run(place: dict[str, Path], folder: Path, reporter: Reporter | None = None, **more: Any) -> Any:
    params = {
        "tiles": str(place["tiles"]),
        "output": str(folder / "study.html"),
        "shares": [0.25],
        "seeds": 1,
        **PHASES,
    }
    return get_job("study heads").execute(params | more, reporter or Reporter())


def test_the_job_writes_a_page_and_the_numbers_behind_it(place: dict[str, Path], tmp_path: Path) -> None:
    result = run(place, tmp_path, reference=str(place["reference"]), json_output=str(tmp_path / "study.json"))
    page = (tmp_path / "study.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 1 and "With one seed there is no spread" in page
    for row in result.rows:
        assert f"{100 * row.f1_mean:.1f} %" in page and f"<td>{row.method}</td>" in page
    assert [row.heads for row in result.rows] == [24, 0, 6, 6, 6] and result.heads_total == 24
    data = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert [r["f1_mean"] for r in data["rows"]] == [r.f1_mean for r in result.rows]
    assert [p["miou"] for p in data["points"]] == [r.miou_mean for r in result.rows]
    assert all(row.f1_sd == 0 for row in result.rows)


def test_what_cannot_be_studied_is_refused_before_training(place: dict[str, Path], tmp_path: Path) -> None:
    diary = Diary()
    with pytest.raises(InputError, match="shares"):
        run(place, tmp_path, diary, shares=[1.5])
    with pytest.raises(InputError, match="only be scored with a reference"):
        run(place, tmp_path, diary, refined=True)
    foreign = write_raster(tmp_path / "foreign.tif", np.full((112, 112), 77, np.uint8), nodata=255)
    with pytest.raises(InputError, match="no class of the scheme"):
        run(place, tmp_path, diary, reference=str(foreign))
    everything = tmp_path / "train.gpkg"
    scene = place["reference"].with_name("scene.tif")
    cutting = CUTTING | {"validation_share": 0}
    get_job("tiles").execute({"scene": [str(scene)], "output": str(everything), **cutting}, Reporter())
    tag = {"tiles": str(everything), "scheme": str(SCHEME), "source": "raster", "raster": str(place["reference"])}
    get_job("tag").execute(tag, Reporter())
    with pytest.raises(InputError, match="no tagged tile out"):
        run({"tiles": everything}, tmp_path, diary)
    assert not diary.metrics and not list(tmp_path.glob("*.html"))
