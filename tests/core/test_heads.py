"""Heads as layers: where each looks, and the classes it speaks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from small_models import CUTTING, SCHEME, SIDE, TRAINING, Diary, tiny_model, write_place, write_tiny_model
from small_rasters import write_raster

from sparsevit.errors import CancelledError, InputError
from sparsevit.jobs import get_job
from sparsevit.mapping.heads import Correlation, Head, heads_and_classes
from sparsevit.models.hardware import HardwareSettings
from sparsevit.models.model_file import read_card
from sparsevit.reporting import Reporter

CPU = HardwareSettings(device="cpu", precision="32-true")


def tiles(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


# --- the network ------------------------------------------------------------------------------------------------------


def test_the_last_block_looks_where_its_attention_says() -> None:
    vit = tiny_model().vit
    assert vit is not None
    looks, whole = vit.class_attention(tiles()), vit(tiles(), need_attention=True).attention
    assert looks.shape == (2, sum(vit.config.heads), 4, 4)
    torch.testing.assert_close(looks[:, -vit.config.heads[-1] :].flatten(2), whole[:, :, 0, 1:])


def test_closed_heads_look_nowhere_and_pruned_ones_are_gone() -> None:
    vit = tiny_model().vit
    assert vit is not None
    mask = [torch.tensor([True, False]), torch.tensor([False, True])]
    vit.set_head_mask(mask)
    masked = vit.class_attention(tiles())
    assert (masked[:, [1, 2]] == 0).all() and (masked[:, [0, 3]] > 0).all()
    vit.prune(mask)
    torch.testing.assert_close(vit.class_attention(tiles()), masked[:, [0, 3]])


def test_a_block_without_heads_has_no_layers() -> None:
    vit = tiny_model().vit
    assert vit is not None
    vit.prune([torch.tensor([False, False]), torch.tensor([True, False])])
    assert vit.class_attention(tiles()).shape == (2, 1, 4, 4)


def test_one_is_the_mean_attention_of_a_patch_and_classes_follow_the_heads() -> None:
    model = tiny_model()
    out = heads_and_classes(model, CPU)(tiles(), [])
    heads, classes = out[:, :4], out[:, 4:]
    assert out.shape == (2, 4 + 3, SIDE, SIDE) and (heads >= 0).all()
    # The class token also looks at itself, so that the patches get a little less than 1 on average.
    assert (heads.mean((2, 3)) <= 1 + 1e-4).all() and (heads.mean((2, 3)) > 0.5).all()
    torch.testing.assert_close(classes, model(tiles()).exp())


# --- correlation ------------------------------------------------------------------------------------------------------


def test_correlation_in_pieces_is_that_of_the_whole() -> None:
    values = np.random.default_rng(0).normal(5, 2, (4, 900)).astype(np.float32)
    values[2] += 3 * values[0]
    correlation = Correlation(4)
    for piece in np.array_split(values, 7, axis=1):
        correlation.add(piece)
    np.testing.assert_allclose(correlation.matrix(), np.corrcoef(values.astype(np.float64)), atol=1e-9)


def test_what_never_changes_correlates_with_nothing() -> None:
    values = np.stack([np.linspace(0, 1, 50), np.full(50, 1 / 3), np.zeros(50)]).astype(np.float32)
    correlation = Correlation(3)
    correlation.add(values)
    np.testing.assert_allclose(correlation.matrix(), np.diag([1, 0, 0]), atol=1e-12)
    assert (Correlation(2).matrix() == 0).all()


def test_a_head_is_named_by_the_classes_it_speaks_for_the_strongest_first() -> None:
    correlation = {"Forest": 0.31, "Water": 0.62, "Barren": 0.19, "Croplands": -0.9}
    assert Head(2, 4, 0.875, correlation).name == "Block 2, head 4, gate 0.88: Water +0.62, Forest +0.31"
    assert Head(1, 1, None, {"Forest": -0.5}).name == "Block 1, head 1: no class"


# --- the job ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A scene and a classifier trained on it, of whose 24 heads 7 survive."""
    folder = tmp_path_factory.mktemp("heads")
    scene, classes = write_place(folder)
    index, model = folder / "tiles.gpkg", folder / "classifier.safetensors"
    get_job("tiles").execute({"scene": [str(scene)], "output": str(index), **CUTTING}, Reporter())
    tag = {"tiles": str(index), "scheme": str(SCHEME), "source": "raster", "raster": str(classes)}
    get_job("tag").execute(tag, Reporter())
    get_job("train").execute({"tiles": str(index), "output": str(model), **TRAINING}, Reporter())
    return scene, model


def inspect(scene: Path, model: Path, output: Path, reporter: Reporter | None = None, **more: Any) -> dict[str, Any]:
    params = {"scene": [str(scene)], "model": str(model), "output": str(output), **vars(CPU), **more}
    return get_job("inspect").execute(params, reporter or Reporter()).model_dump()


def test_every_surviving_head_is_a_named_band_with_its_gate(place: tuple[Path, Path], tmp_path: Path) -> None:
    scene, model = place
    diary, card = Diary(), read_card(model)
    result = inspect(scene, model, tmp_path / "heads.tif", diary)
    kept = [(b + 1, h + 1) for b, block in enumerate(card.head_mask) for h, on in enumerate(block) if on]
    assert [(head["block"], head["head"]) for head in result["heads"]] == kept and len(kept) == card.heads_kept == 7
    assert [head["gate"] for head in result["heads"]] == [card.head_gates[b - 1][h - 1] for b, h in kept]
    closed = [
        g for bs, gs in zip(card.head_mask, card.head_gates, strict=True) for k, g in zip(bs, gs, strict=True) if not k
    ]
    assert min(head["gate"] for head in result["heads"]) >= max(closed)
    names = [head["name"] for head in result["heads"]]
    with rasterio.open(tmp_path / "heads.tif") as heads, rasterio.open(scene) as src:
        assert list(heads.descriptions) == names == diary.lines
        assert heads.count == 7 and heads.shape == src.shape and heads.transform == src.transform


def test_correlations_are_those_of_the_layers_written(place: tuple[Path, Path], tmp_path: Path) -> None:
    scene, model = place
    result = inspect(scene, model, tmp_path / "heads.tif", overlap=0.25)
    files = {"output": str(tmp_path / "map.tif"), "probabilities": str(tmp_path / "p.tif")}
    params = {"scene": [str(scene)], "model": str(model), **vars(CPU), **files, "overlap": 0.25, "edges": "none"}
    get_job("predict").execute(params, Reporter())
    with rasterio.open(tmp_path / "heads.tif") as heads, rasterio.open(tmp_path / "p.tif") as probabilities:
        layers = np.concatenate([heads.read(), probabilities.read()]).reshape(7 + 3, -1).astype(np.float64)
    expected = np.corrcoef(layers)[:7, 7:]
    told = np.array([list(head["correlation"].values()) for head in result["heads"]])
    np.testing.assert_allclose(told, expected, atol=1e-3)


def test_nodata_stays_nodata_and_does_not_count(place: tuple[Path, Path], tmp_path: Path) -> None:
    scene, model = place
    with rasterio.open(scene) as src:
        values = src.read()
    values[:, :, :40] = -9999
    holed = write_raster(tmp_path / "holed.tif", values, names=["B04", "B08"], nodata=-9999)
    result = inspect(holed, model, tmp_path / "heads.tif")
    with rasterio.open(tmp_path / "heads.tif") as heads:
        empty = np.isnan(heads.read())
    assert empty[:, :, :40].all() and not empty[:, :, 40:].any()
    assert all(np.isfinite(list(head["correlation"].values())).all() for head in result["heads"])


def test_without_gates_or_heads_it_says_so(place: tuple[Path, Path], tmp_path: Path) -> None:
    scene, model = place
    plain = write_tiny_model(tmp_path / "m.safetensors", read_card(model).scheme, ["B04", "B08"])
    assert [head["gate"] for head in inspect(scene, plain, tmp_path / "heads.tif")["heads"]] == [None] * 4
    empty = write_raster(tmp_path / "empty.tif", np.full((2, 32, 32), -9999.0), names=["B04", "B08"], nodata=-9999)
    with pytest.raises(InputError, match="no pixel with data"):
        inspect(empty, model, tmp_path / "none.tif")
    with pytest.raises(CancelledError):
        inspect(scene, model, tmp_path / "none.tif", Diary(0.0))
    assert not list(tmp_path.glob("none*"))
