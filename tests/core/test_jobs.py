"""The jobs end to end on a tiny scene: outputs, cancelling, radar, and what a user is told."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from rasterio.windows import Window
from small_models import (
    CUTTING,
    PHASES,
    REFINING,
    SCHEME,
    SIDE,
    TRAINING,
    Diary,
    tiny_model,
    write_place,
    write_tiny_model,
)
from small_rasters import ORIGIN, SAMPLE, scheme, write_layer, write_raster

from sparsevit.errors import CancelledError, InputError
from sparsevit.geodata.scene import open_scene
from sparsevit.geodata.tile_index import UNKNOWN, read_tile_index
from sparsevit.geodata.tile_masks import read_tile_masks
from sparsevit.jobs import JOBS, get_job
from sparsevit.jobs.base import Result
from sparsevit.mapping.predict import check_scene
from sparsevit.models.edges import REACH
from sparsevit.models.landcover import LandCoverModel
from sparsevit.models.model_file import load_model, read_card, save_model
from sparsevit.reporting import Reporter
from sparsevit.training.classifier import architecture_for, fitting_patch
from sparsevit.training.phases import ClassifierSettings
from sparsevit.training.tagged import load_training_data
from sparsevit.training.tiles import load_tiles

NODATA = 255
FORMER = b"an output of an earlier run"


def do(job: str, reporter: Reporter | None = None, **params: Any) -> Result:
    """Run a job as the command line and the plugin do: from plain values."""
    plain = {
        k: [str(v) for v in p] if isinstance(p, list) else str(p) if isinstance(p, Path) else p
        for k, p in params.items()
    }
    return get_job(job).execute(plain, reporter or Reporter())


def outputs(folder: Path) -> dict[str, Path]:
    names = {"landcover": "tif", "pseudomask": "tif", "confidence": "tif", "tiles": "gpkg", "report": "html"}
    names |= {"classifier_model": "safetensors", "model": "safetensors", "report_json": "json"}
    return {name: folder / f"{name}.{suffix}" for name, suffix in names.items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    write_place(folder)
    return folder


@pytest.fixture(scope="module")
def road(place: Path) -> tuple[Result, dict[str, Path], Diary]:
    """The whole road, once."""
    files, diary = outputs(place), Diary()
    scene, classes = place / "scene.tif", place / "classes.tif"
    tags = {"scene": [scene], "scheme": SCHEME, "source": "raster", "raster": classes, "reference": classes}
    return do("map", diary, **tags, **CUTTING, **TRAINING, **REFINING, **files, review=False), files, diary


# --- the whole road ---------------------------------------------------------------------------------------------------


def test_one_request_writes_every_output_and_leaves_nothing_else(road: tuple[Any, dict[str, Path], Diary]) -> None:
    result, files, _ = road
    for name, path in files.items():
        assert path.stat().st_size > 0
        assert getattr(result, name) == str(path)
    folder = files["landcover"].parent
    side_files = {f.name + ".aux.xml" for f in files.values()}
    assert {p.name for p in folder.iterdir()} - side_files == {f.name for f in files.values()} | {
        "scene.tif",
        "classes.tif",
    }


@pytest.mark.parametrize("wrong", [0.0, 0.2])
def test_tags_that_look_wrong_are_forgotten_before_anything_is_learned(tmp_path: Path, wrong: float) -> None:
    (tmp_path / "place").mkdir()
    scene, classes = write_place(tmp_path / "place", 160)
    with rasterio.open(classes) as src:
        codes = src.read(1)
    blocks = np.random.default_rng(0).random((10, 10)) < wrong  # tiles of 16 pixels whose tags name other classes
    other = np.select([codes == 1, codes == 6], [6, 10], 1).astype(np.uint8)
    tagged_from = write_raster(tmp_path / "place/tags.tif", np.where(np.kron(blocks, np.ones((16, 16))), other, codes))
    tags = {"scene": [scene], "scheme": SCHEME, "source": "raster", "raster": tagged_from}
    files, training = outputs(tmp_path), Diary(0.13)  # the review ends at 0.12
    with pytest.raises(CancelledError):
        do("map", training, **tags, **CUTTING, **TRAINING, **files | {"report": None, "report_json": None})
    index = read_tile_index(files["tiles"])
    assert any("tags look wrong" in line for line in training.lines)
    forgotten = (index.tags() == UNKNOWN).any(axis=1)
    assert not forgotten.all() and forgotten.any() == bool(wrong)
    assert not wrong or (index.frame["review_doubts"].notna() == forgotten).all()
    assert any("review_doubts" in line for line in training.lines) == bool(wrong)  # what to do about it


def test_bands_that_have_names_may_be_renamed_all_along_the_road(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    scene, classes = write_place(tmp_path / "place")  # its bands are called B04, B08
    files, names = outputs(tmp_path) | {"report": None, "report_json": None}, ["red", "nir"]
    tags = {"scene": [scene], "band_names": names, "scheme": SCHEME, "source": "raster", "raster": classes}
    with pytest.raises(CancelledError):  # the pseudomask ends at 0.6
        do("map", Diary(0.605), **tags, **CUTTING, **TRAINING, **files, review=False)
    assert read_card(outputs(tmp_path)["classifier_model"]).bands == names
    with rasterio.open(outputs(tmp_path)["pseudomask"]) as src:
        assert len(set(np.unique(src.read(1))) & {1, 6, 10}) > 1


def test_rasters_lie_on_the_grid_of_the_scene_and_hold_classes_of_the_tags(
    road: tuple[Any, dict[str, Path], Diary], place: Path
) -> None:
    _, files, _ = road
    with rasterio.open(place / "scene.tif") as scene:
        for name in ("landcover", "pseudomask", "confidence"):
            with rasterio.open(files[name]) as src:
                assert (src.crs, src.transform, src.shape) == (scene.crs, scene.transform, scene.shape)
                values = src.read(1)
            if name == "confidence":
                assert ((values >= 0) & (values <= 1)).all()
            else:
                assert set(np.unique(values)) <= {1, 6, 10, NODATA}
    with rasterio.open(files["landcover"]) as src:
        assert (src.read(1) != NODATA).all()
        assert src.nodata == NODATA and src.colormap(1)[1][:3] == scheme().find(1).rgb


def test_numbers_of_the_result_agree_with_the_files(road: tuple[Any, dict[str, Path], Diary]) -> None:
    result, files, _ = road
    card = read_card(files["classifier_model"])
    model, landcover = load_model(files["model"], "landcover")
    assert (result.heads_kept, result.heads_total) == (card.heads_kept, card.heads_total) == (7, 24)
    assert sum(model.architecture.vit.heads) == 7
    assert landcover.bands == ["B04", "B08"] and landcover.gsd == 10
    assert sum(model.architecture.weights.values()) == pytest.approx(1)
    assert sum(result.class_shares.values()) == pytest.approx(1)
    assert 0 <= result.macro_f1 <= 1 and 0 <= result.miou <= 1
    assert result.decision.startswith("Refinement")


def test_without_a_share_as_few_heads_are_kept_as_trials_find(
    road: tuple[Any, dict[str, Path], Diary], tmp_path: Path
) -> None:
    classifier, diary = tmp_path / "classifier.safetensors", Diary()
    options = {name: value for name, value in TRAINING.items() if name != "heads_kept"}
    result: Any = do("train", diary, tiles=road[1]["tiles"], output=classifier, **options)
    (told,) = [line for line in diary.lines if "heads will do" in line]
    kept = int(told.split()[0])
    model, card = load_model(classifier)
    assert told.startswith(f"{kept} of 24 heads") and 1 <= kept <= 24
    assert result.heads_kept == card.heads_kept == sum(model.architecture.vit.heads) == kept


def test_progress_only_grows_and_reaches_the_end(road: tuple[Any, dict[str, Path], Diary]) -> None:
    _, _, diary = road
    assert diary.fractions[-1] == 1
    assert all(b >= a - 1e-9 for a, b in zip(diary.fractions[:-1], diary.fractions[1:], strict=True))
    assert len(set(diary.fractions)) > 20


def test_pseudomask_holds_only_tagged_classes_inside_tagged_tiles(road: tuple[Any, dict[str, Path], Diary]) -> None:
    _, files, _ = road
    index = read_tile_index(files["tiles"])
    assert index.scheme is not None
    with rasterio.open(files["pseudomask"]) as src:
        mask = src.read(1)
    checked = 0
    for window, tags in zip(index.windows(), index.tags(), strict=True):
        if (tags < 0).any():
            continue
        inside = mask[window.toslices()]
        allowed = {c for c, tag in zip(index.scheme.codes, tags, strict=True) if tag == 1}
        assert set(np.unique(inside)) <= allowed | {NODATA}
        checked += 1
    assert checked > 20


def test_a_saved_model_maps_another_scene(road: tuple[Any, dict[str, Path], Diary], tmp_path: Path) -> None:
    scene, _ = write_place(tmp_path, side=40)
    for name in ("classifier_model", "model"):
        target = tmp_path / f"{name}.tif"
        result = do(
            "predict", model=road[1][name], scene=[scene], output=target, probabilities=tmp_path / "p.tif", device="cpu"
        )
        with rasterio.open(target) as src, rasterio.open(tmp_path / "p.tif") as p:
            assert src.shape == (40, 40)
            np.testing.assert_allclose(p.read().sum(axis=0), 1, atol=1e-4)
        assert result.megapixels == pytest.approx(0.0016)  # type: ignore[attr-defined]


@pytest.mark.parametrize("naming", ["rank", "assignment"])
def test_the_published_recipe_paints_the_same_scene(
    road: tuple[Any, dict[str, Path], Diary], tmp_path: Path, naming: str
) -> None:
    target, heads = tmp_path / "clusters.tif", tmp_path / "heads.tif"
    card = read_card(road[1]["classifier_model"])
    result = do(
        "pseudomask",
        model=road[1]["classifier_model"],
        tiles=road[1]["tiles"],
        output=target,
        method="clusters",
        naming=naming,
        reclassify=naming == "rank",
        device="cpu",
        heads=heads,
    )
    assert 0 < result.labelled_share <= 1  # type: ignore[attr-defined]
    with rasterio.open(heads) as src:
        assert src.count == card.heads_kept and (src.read() >= 0).all()


def test_a_segmenter_refines_and_maps_the_same_scene(
    road: tuple[Any, dict[str, Path], Diary], place: Path, tmp_path: Path
) -> None:
    files, model = road[1], tmp_path / "segmenter.safetensors"
    inputs = {"tiles": files["tiles"], "classifier": files["classifier_model"], "pseudomask": files["pseudomask"]}
    options = {"decoder": "segmenter", "clip": True, "refine_epochs": 3, "rounds": 1}
    result: Any = do("refine", **inputs, **options, device="cpu", output=model)
    assert ("Segmenter" in result.decision) == (result.refined_weight > 0)
    do("predict", model=model, scene=[place / "scene.tif"], output=tmp_path / "map.tif", device="cpu")
    with rasterio.open(tmp_path / "map.tif") as mapped:
        assert set(np.unique(mapped.read(1))) <= {1, 6, 10}
    heads: Any = do("inspect", model=model, scene=[place / "scene.tif"], output=tmp_path / "heads.tif", device="cpu")
    assert len(heads.heads) == read_card(files["classifier_model"]).heads_kept


# --- cancelling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [0.0, 0.03, 0.2, 0.5, 0.57, 0.605])
def test_a_cancelled_road_leaves_no_half_file_and_keeps_former_outputs(
    place: Path, tmp_path: Path, stop_at: float
) -> None:
    files = outputs(tmp_path)
    for path in files.values():
        path.write_bytes(FORMER)
    scene, classes = place / "scene.tif", place / "classes.tif"
    tags = {"scene": [scene], "scheme": SCHEME, "source": "raster", "raster": classes, "reference": classes}
    with pytest.raises(CancelledError):
        do("map", Diary(stop_at), **tags, **CUTTING, **TRAINING, **REFINING, **files)
    assert {p.name.removesuffix(".aux.xml") for p in tmp_path.iterdir()} == {p.name for p in files.values()}
    for name in ("landcover", "confidence", "model", "report", "report_json"):  # the last steps never began
        assert files[name].read_bytes() == FORMER


def test_a_cancelled_training_goes_on_where_it_was_stopped(
    road: tuple[Any, dict[str, Path], Diary], tmp_path: Path
) -> None:
    tiles, whole, resumed = road[1]["tiles"], tmp_path / "whole.safetensors", tmp_path / "resumed.safetensors"
    do("train", tiles=tiles, output=whole, **TRAINING)
    folder = {"checkpoints": tmp_path / "checkpoints"}
    with pytest.raises(CancelledError):
        do("train", Diary(0.4), tiles=tiles, output=resumed, **folder, **TRAINING)
    assert not resumed.exists() and any((tmp_path / "checkpoints").iterdir())
    do("train", tiles=tiles, output=resumed, resume=True, **folder, **TRAINING)
    assert same_weights(whole, resumed)


def test_a_cancelled_refinement_goes_on_where_it_was_stopped(
    road: tuple[Any, dict[str, Path], Diary], tmp_path: Path
) -> None:
    files, whole, resumed = road[1], tmp_path / "whole.safetensors", tmp_path / "resumed.safetensors"
    inputs = {"classifier": files["classifier_model"], "pseudomask": files["pseudomask"], "tiles": files["tiles"]}
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "spectral.checkpoint").write_bytes(FORMER)  # of the training: not ours to remove
    (folder / "round_7.checkpoint").write_bytes(FORMER)
    changes = REFINING | {"refine_epochs": 4, "device": "cpu"}
    do("refine", output=whole, **inputs, **changes)
    with pytest.raises(CancelledError):
        do("refine", Diary(0.5), output=resumed, checkpoints=folder, **inputs, **changes)
    assert not resumed.exists()
    assert {path.name for path in folder.iterdir()} == {"spectral.checkpoint", "round_1.checkpoint"}
    do("refine", output=resumed, checkpoints=folder, resume=True, **inputs, **changes)
    assert same_weights(whole, resumed)
    with pytest.raises(InputError) as raised:
        do("refine", output=resumed, resume=True, **inputs, **changes)
    assert raised.value.parameter == "resume"


def same_weights(*paths: Path) -> bool:
    """Whether two model files hold the same weights, bit for bit."""
    first, second = (load_model(path)[0].state_dict() for path in paths)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_cancelled_map_leaves_the_former_one_untouched(
    road: tuple[Any, dict[str, Path], Diary], tmp_path: Path
) -> None:
    scene, _ = write_place(tmp_path)
    target = tmp_path / "map.tif"
    target.write_bytes(FORMER)
    with pytest.raises(CancelledError):
        do("predict", Diary(0.3), model=road[1]["model"], scene=[scene], output=target, device="cpu")
    assert target.read_bytes() == FORMER
    assert {p.name for p in tmp_path.iterdir()} == {"map.tif", "scene.tif", "classes.tif"}


def test_a_scene_that_turns_out_damaged_leaves_the_former_map_untouched(
    road: tuple[Any, dict[str, Path], Diary], tmp_path: Path
) -> None:
    scene, _ = write_place(tmp_path)
    scene.write_bytes(scene.read_bytes()[: scene.stat().st_size // 2])
    target = tmp_path / "map.tif"
    target.write_bytes(FORMER)
    with pytest.raises(InputError) as raised:
        do("predict", model=road[1]["model"], scene=[scene], output=target, device="cpu")
    assert raised.value.parameter == "scene" and "scene.tif" in raised.value.message
    assert target.read_bytes() == FORMER
    assert {p.name for p in tmp_path.iterdir()} == {"map.tif", "scene.tif", "classes.tif"}


# --- a part of a scene ------------------------------------------------------------------------------------------------


def write_knowing_model(path: Path) -> Path:
    """The untrained model, on the scale of the scene and with a spectral network whose classes differ."""
    write_tiny_model(path, scheme().subset([1, 6, 10]).to_json(), ["B04", "B08"])
    model, card = load_model(path)
    assert model.spectral is not None
    model.mean.fill_(1000)
    model.std.fill_(1000)
    torch.manual_seed(0)
    for parameter in model.spectral.parameters():
        torch.nn.init.normal_(parameter)
    save_model(path, model, card)
    return path


@pytest.mark.parametrize("method", ["evidence", "clusters"])
def test_the_pseudomask_of_an_extent_is_the_same_part_of_the_whole_one(
    place: Path, tmp_path: Path, method: str
) -> None:
    tiles, model = cut(place, tmp_path), write_knowing_model(tmp_path / "m.safetensors")
    do("tag", tiles=tiles, scheme=SCHEME, source="raster", raster=place / "classes.tif")
    inputs = {"model": model, "tiles": tiles, "method": method, "ignore_margin": 0, "device": "cpu"}
    with rasterio.open(place / "scene.tif") as scene:
        part = Window(24, 8, 72, 88)  # pixels; tiles are evaluated at multiples of 8, but cut at multiples of 16
        where, extent = scene.window_transform(part), scene.window_bounds(part)
    do("pseudomask", output=tmp_path / "whole.tif", **inputs)
    do("pseudomask", output=tmp_path / "part.tif", extent=list(map(float, extent)), **inputs)
    with rasterio.open(tmp_path / "part.tif") as src, rasterio.open(tmp_path / "whole.tif") as whole:
        assert (src.transform, src.shape) == (where, (88, 72))
        here, there = src.read(1), whole.read(1, window=part)
    inside = slice(SIDE + REACH, -SIDE - REACH)  # the rest is blended from other tiles
    assert len(np.unique(here[inside, inside])) > 1
    assert (here == there)[inside, inside].mean() > 0.99
    index = read_tile_index(tiles)
    assert index.scheme is not None
    for tile, tags in zip(index.windows(), index.tags(), strict=True):
        if tile.col_off < 32 or tile.col_off >= 96 or tile.row_off < 16 or tile.row_off >= 96:
            continue
        top, left = int(tile.row_off) - 8, int(tile.col_off) - 24
        allowed = {c for c, tag in zip(index.scheme.codes, tags, strict=True) if tag == 1}
        assert set(np.unique(here[top : top + SIDE, left : left + SIDE])) <= allowed | {NODATA}


# --- splits -----------------------------------------------------------------------------------------------------------


def test_training_reads_the_tagged_tiles_of_its_splits_and_nothing_of_the_others(tmp_path: Path) -> None:
    size, side = 160, 16
    scene = write_raster(tmp_path / "s.tif", np.arange(size**2, dtype=np.float32).reshape(size, size), names=["B04"])
    cutting = {"tile_size_m": 160, "block_size_m": 480, "gap_m": 40, "validation_share": 0.2, "test_share": 0.2}
    do("tiles", scene=[scene], output=tmp_path / "tiles.gpkg", **cutting)
    frame = read_tile_index(tmp_path / "tiles.gpkg").frame
    assert set(frame["split"]) == {"train", "validation", "test", "gap"}
    random = np.random.default_rng(0)
    names = np.array(["Forest", "Croplands", "Water"])
    known = random.random((len(frame), 3)) < 0.5
    frame["classes"] = [", ".join(names[row]) or None for row in known]  # about an eighth has no tags
    layer = write_layer(tmp_path / "tags.gpkg", list(frame.geometry), frame.crs, classes=frame["classes"].tolist())
    do("tag", tiles=tmp_path / "tiles.gpkg", scheme=SCHEME, source="text", layer=layer, field="classes")
    data = load_training_data(read_tile_index(tmp_path / "tiles.gpkg"), [], [], [], Reporter())
    assert data.validation is not None and data.validation_index is not None
    for split, found, index in (
        ("train", data.train, data.train_index),
        ("validation", data.validation, data.validation_index),
    ):
        expected = frame[(frame["split"] == split) & known.any(axis=1)]
        assert 0 < len(expected) < (frame["split"] == split).sum()
        assert index.frame["tile_id"].tolist() == expected["tile_id"].tolist()
        np.testing.assert_array_equal(found.tags.numpy(), known[expected.index])
        left, _, _, top = expected.geometry.bounds.to_numpy().T
        corners = np.rint((ORIGIN[1] - top) / 10 * size + (left - ORIGIN[0]) / 10)
        steps = np.arange(side)[:, None] * size + np.arange(side)
        np.testing.assert_array_equal(found.store.values[:, 0], corners[:, None, None] + steps)


# --- Sentinel-1 and Sentinel-2 ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def radar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of the sample place with radar."""
    folder, home = tmp_path_factory.mktemp("radar"), SAMPLE / "terramesh"
    tags = {"scheme": SCHEME, "source": "text", "layer": home / "tags.gpkg", "field": "classes"}
    cutting = {"tile_size_m": 320, "block_size_m": 640, "gap_m": 0}
    scene = [home / "s2.tif", home / "s1.tif"]
    do("tiles", scene=scene, output=folder / "tiles.gpkg", footprints=home / "tags.gpkg", **cutting)
    do("tag", tiles=folder / "tiles.gpkg", **tags)
    do("train", tiles=folder / "tiles.gpkg", output=folder / "classifier.safetensors", **TRAINING)
    return folder / "classifier.safetensors"


def test_radar_and_optical_bands_are_all_inputs_of_the_classifier(radar: Path) -> None:
    card = read_card(radar)
    assert {"VV", "VH", "B02", "B12"} <= set(card.bands)
    assert card.architecture.channels == len(card.bands) == 14


def test_perturbing_vv_alone_changes_what_the_classifier_says(radar: Path) -> None:
    model, card = load_model(radar)
    home = SAMPLE / "terramesh"
    with open_scene([home / "s2.tif", home / "s1.tif"]) as whole:
        values = check_scene(whole, card).read(Window(64, 64, 32, 32))[0]
    x = torch.from_numpy(values)[None]
    louder = x.clone()
    louder[:, card.bands.index("VV")] += 3  # dB
    assert model.vit is not None
    before, after = model.vit(model.normalise(x)), model.vit(model.normalise(louder))
    assert (after.tags - before.tags).abs().max() > 1e-4
    assert (model(louder) - model(x)).abs().max() > 1e-4


def test_training_moves_the_weights_of_the_radar_bands(radar: Path) -> None:
    model, card = load_model(radar)
    torch.manual_seed(0)
    start = LandCoverModel(architecture_for(14, card.architecture.classes, 32, 10.0, ClassifierSettings()))
    assert model.vit is not None and start.vit is not None
    for band in ("VV", "VH", "B08"):
        k = card.bands.index(band)
        moved = (model.vit.patch_embed[0].weight[:, k] - start.vit.patch_embed[0].weight[:, k]).abs().mean()
        assert moved > 1e-4, band


# --- what cannot work -------------------------------------------------------------------------------------------------


def cut(place: Path, folder: Path) -> Path:
    do("tiles", scene=[place / "scene.tif"], output=folder / "tiles.gpkg", **CUTTING)
    return folder / "tiles.gpkg"


def test_a_class_that_is_never_present_is_named(place: Path, tmp_path: Path) -> None:
    tiles = cut(place, tmp_path)
    with pytest.raises(InputError, match="Snow/Ice") as raised:
        do(
            "tag",
            tiles=tiles,
            scheme=SCHEME,
            source="raster",
            raster=place / "classes.tif",
            classes=["Forest", "Snow/Ice"],
        )
    assert raised.value.parameter == "classes"


def test_a_single_class_is_refused(place: Path, tmp_path: Path) -> None:
    tiles = cut(place, tmp_path)
    do("tag", tiles=tiles, scheme=SCHEME, source="raster", raster=place / "classes.tif")
    with pytest.raises(InputError, match="One class, Water, is no map") as raised:
        do("train", tiles=tiles, output=tmp_path / "model.safetensors", classes=["Water"], **TRAINING)
    assert raised.value.parameter == "classes" and raised.value.hint


@pytest.mark.parametrize(("tile", "gsd", "patch"), [(64, 10.0, 4), (32, 20.0, 2), (21, 30.0, 1), (208, 3.0, 13)])
def test_a_whole_number_of_patches_of_about_40_metres_makes_a_tile(tile: int, gsd: float, patch: int) -> None:
    assert fitting_patch(tile, gsd, ClassifierSettings()) == patch


@pytest.mark.parametrize(("tile", "gsd", "advice"), [(213, 3.0, "624 m"), (67, 9.55, "649.4 m")])
def test_tiles_that_only_far_smaller_patches_fit_are_refused(tile: int, gsd: float, advice: str) -> None:
    """Such patches would be hundreds of times as many pairs of tokens."""
    with pytest.raises(InputError, match="of about 40 m") as raised:
        fitting_patch(tile, gsd, ClassifierSettings())
    assert raised.value.parameter == "patch_size_m" and advice in str(raised.value.hint)
    assert fitting_patch(round(float(advice[:-2]) / gsd), gsd, ClassifierSettings()) * gsd == pytest.approx(39, abs=1)


def test_a_class_absent_from_the_training_split_is_named(place: Path, tmp_path: Path) -> None:
    tiles = cut(place, tmp_path)
    index = read_tile_index(tiles)
    held_out = (index.frame["split"] == "validation").to_numpy()
    texts = np.where(held_out, "Forest, Water", "Forest")
    layer = write_layer(tmp_path / "tags.gpkg", list(index.frame.geometry), crs=index.frame.crs, classes=list(texts))
    do("tag", tiles=tiles, scheme=SCHEME, source="text", layer=layer, field="classes")
    with pytest.raises(InputError, match="Water") as raised:
        do("train", tiles=tiles, output=tmp_path / "model.safetensors", **TRAINING)
    assert raised.value.parameter == "classes"


class Warned(Diary):
    """Remembers the warnings only."""

    def log(self, text: str, level: str = "info") -> None:
        if level == "warning":
            super().log(text, level)


@pytest.mark.parametrize(
    ("texts", "warning"),
    [
        (["Forest, Water", "Forest"], "Forest is present in every tile .*without tiles that lack it"),
        (["Forest, Water", "Croplands"], "Forest and Water always occur together: .*cannot tell them apart"),
    ],
    ids=["a class everywhere", "two classes together"],
)
def test_tags_that_cannot_teach_a_class_are_pointed_out(
    place: Path, tmp_path: Path, texts: list[str], warning: str
) -> None:
    tiles, warned = cut(place, tmp_path), Warned()
    frame = read_tile_index(tiles).frame
    classes = [texts[k % 2] for k in range(len(frame))]
    layer = write_layer(tmp_path / "tags.gpkg", list(frame.geometry), crs=frame.crs, classes=classes)
    result: Any = do("tag", warned, tiles=tiles, scheme=SCHEME, source="text", layer=layer, field="classes")
    assert warned.lines == result.warnings and len(warned.lines) == 1
    assert re.search(warning, warned.lines[0])


def test_what_the_tags_cannot_teach_stands_in_the_reports(place: Path, tmp_path: Path) -> None:
    tiles, scene, classes = cut(place, tmp_path), place / "scene.tif", place / "classes.tif"
    frame = read_tile_index(tiles).frame
    texts = ["Forest, Water" if k % 2 else "Croplands" for k in range(len(frame))]
    layer = write_layer(tmp_path / "tags.gpkg", list(frame.geometry), crs=frame.crs, classes=texts)
    do("tag", tiles=tiles, scheme=SCHEME, source="text", layer=layer, field="classes")
    model, mask = tmp_path / "model.safetensors", tmp_path / "mask.tif"
    do("train", tiles=tiles, output=model, **TRAINING)
    do("predict", model=model, scene=[scene], output=tmp_path / "map.tif", device="cpu")
    do("pseudomask", model=model, tiles=tiles, output=mask, device="cpu")
    do("study heads", tiles=tiles, output=tmp_path / "study.html", **STUDY)
    for raster in (tmp_path / "map.tif", mask):
        assessed: Any = do("assess", map=raster, reference=classes, output=raster.with_suffix(".html"))
        assert "Forest and Water always occur together: the tags cannot tell them apart" in assessed.notes[0]
    for report in ("map.html", "mask.html", "study.html"):
        assert (tmp_path / report).read_text().count("Forest and Water always occur together") == 1


def test_tiles_without_tags_cannot_be_trained_on(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        do("train", tiles=cut(place, tmp_path), output=tmp_path / "model.safetensors", **TRAINING)
    assert raised.value.parameter == "tiles"
    assert not (tmp_path / "model.safetensors").exists()


def test_tags_of_another_place_are_refused(place: Path, tmp_path: Path) -> None:
    far = write_layer(tmp_path / "far.gpkg", [shapely.box(600000, 4200000, 600160, 4200160)], classes=["Forest"])
    with pytest.raises(InputError) as raised:
        do("tag", tiles=cut(place, tmp_path), scheme=SCHEME, source="text", layer=far, field="classes")
    assert raised.value.parameter == "layer"


def test_a_band_that_the_scene_lacks_is_named(tmp_path: Path) -> None:
    scene, _ = write_place(tmp_path, side=40)
    model = write_tiny_model(tmp_path / "m.safetensors", scheme().subset([1, 6, 10]).to_json(), ["B04", "B11"])
    with pytest.raises(InputError, match="B11") as raised:
        do("predict", model=model, scene=[scene], output=tmp_path / "map.tif")
    assert raised.value.parameter == "scene"


def test_a_band_that_the_tile_index_lacks_is_named(road: tuple[Any, dict[str, Path], Diary], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="B99") as raised:
        do("train", tiles=road[1]["tiles"], bands=["B04", "B99"], output=tmp_path / "m.safetensors", **TRAINING)
    assert raised.value.parameter == "bands" and "B08" in str(raised.value.hint)


@pytest.mark.parametrize(
    "other",
    [{"bands": ["B04"]}, {"bands": ["B08", "B04"]}, {"learning_rate": 0.5}],
    ids=["bands", "order of bands", "settings"],
)
def test_checkpoints_of_another_training_are_refused(
    road: tuple[Any, dict[str, Path], Diary], tmp_path: Path, other: dict[str, Any]
) -> None:
    request = {"tiles": road[1]["tiles"], "checkpoints": tmp_path / "c", "output": tmp_path / "m.safetensors"}
    with pytest.raises(CancelledError):
        do("train", Diary(0.4), **request, **TRAINING)
    with pytest.raises(InputError, match=r"spectral\.checkpoint does not fit") as raised:
        do("train", resume=True, **request, **TRAINING, **other)
    assert raised.value.parameter == "resume" and raised.value.hint
    assert not (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize(
    "other", [{"heads_kept": 0.6}, {"gate_penalty": 0.5}, {"distillation": 0.0}], ids=lambda other: next(iter(other))
)
def test_checkpoints_of_other_gates_are_refused(
    road: tuple[Any, dict[str, Path], Diary], tmp_path: Path, other: dict[str, Any]
) -> None:
    request = {"tiles": road[1]["tiles"], "checkpoints": tmp_path / "c", "output": tmp_path / "m.safetensors"}
    do("train", **request, **TRAINING)
    with pytest.raises(InputError, match=r"gates\.checkpoint does not fit"):
        do("train", resume=True, **request, **TRAINING | other)


def test_a_refinement_reads_tags_in_the_order_of_the_model(files: dict[str, Path], tmp_path: Path) -> None:
    """Whoever tags the tiles again may list the classes in another order."""
    index = read_tile_index(files["tiles"])
    assert index.scheme is not None
    turned = replace(index.scheme, classes=index.scheme.classes[::-1])
    index.with_tags(turned, index.tags()[:, ::-1], 0.1).write(tmp_path / "turned.gpkg")
    request = {"classifier": files["classifier"], "pseudomask": files["pseudomask"], "device": "cpu", **REFINING}
    first: Any = do("refine", tiles=files["tiles"], output=tmp_path / "a.safetensors", **request)
    second: Any = do("refine", tiles=tmp_path / "turned.gpkg", output=tmp_path / "b.safetensors", **request)
    assert second.tag_loss == first.tag_loss and second.rounds == first.rounds


STUDY = {"shares": [0.5], "seeds": 1, **PHASES}
READERS: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "train": ("m.safetensors", ["tiles"], TRAINING),
    "refine": ("m.safetensors", ["tiles", "classifier", "pseudomask"], {**REFINING, "device": "cpu"}),
    "pseudomask": ("mask.tif", ["tiles", "model"], {"device": "cpu"}),
    "suggest": ("ranked.gpkg", ["tiles", "classifier"], {"device": "cpu"}),
    "review": ("reviewed.gpkg", ["tiles"], {"review_epochs": 1, "device": "cpu"}),
    "study heads": ("study.html", ["tiles"], STUDY),
    "inspect": ("heads.tif", ["model"], {"device": "cpu"}),
}
"""Of each job that reads a tile index or a model: the name of its output, its inputs, its settings."""


def refused(job: str, folder: Path, files: dict[str, Path], **more: Any) -> InputError:
    """Run a reader that cannot work; gives the error, which says what to do."""
    name, inputs, settings = READERS[job]
    request = {key: files[key] for key in inputs} | {"output": folder / name} | settings | more
    before = set(folder.iterdir())
    with pytest.raises(InputError) as raised:
        do(job, **request)
    assert set(folder.iterdir()) == before
    assert raised.value.hint
    return raised.value


@pytest.fixture(scope="module")
def files(road: tuple[Any, dict[str, Path], Diary], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Inputs of all readers; every other tile of the index has no tags."""
    classifier, tiles = road[1]["classifier_model"], tmp_path_factory.mktemp("files") / "tiles.gpkg"
    index = read_tile_index(road[1]["tiles"])
    tags = index.tags()
    tags[1::2] = UNKNOWN
    index.retagged(tags).write(tiles)
    return {"tiles": tiles, "model": classifier, "classifier": classifier, "pseudomask": road[1]["pseudomask"]}


def write_scene(path: Path, names: list[str], metres: float = 0.0) -> Path:
    """A scene of the size of the place, so many metres to the east."""
    origin = (ORIGIN[0] + metres, ORIGIN[1])
    return write_raster(path, np.ones((len(names), 112, 112), np.float32), origin=origin, names=names)


@pytest.mark.parametrize("job", [job for job, (_, inputs, _) in READERS.items() if "tiles" in inputs])
def test_a_tile_index_of_another_scene_is_refused(job: str, files: dict[str, Path], tmp_path: Path) -> None:
    moved = write_scene(tmp_path / "moved.tif", ["B04", "B08"], 30.0)
    error = refused(job, tmp_path, files, scene=[moved])
    assert error.parameter == "tiles" and "was not cut from" in error.message and "moved.tif" in error.message


def test_masks_are_not_cut_out_by_tiles_of_another_scene(files: dict[str, Path], tmp_path: Path) -> None:
    moved = write_scene(tmp_path / "moved.tif", ["B04", "B08"], 30.0)
    with pytest.raises(InputError, match="was not cut from"):
        read_tile_masks(read_tile_index(files["tiles"]), [moved], lambda _: files["pseudomask"], {1: 0}, "pseudomask")


@pytest.mark.parametrize("job", ["refine", "pseudomask", "suggest", "inspect"])
def test_a_scene_without_a_band_of_the_model_is_refused(job: str, files: dict[str, Path], tmp_path: Path) -> None:
    other = write_scene(tmp_path / "other.tif", ["B04", "B11"])
    do("tiles", scene=[other], output=tmp_path / "tiles.gpkg", **CUTTING)
    index, tagged = read_tile_index(tmp_path / "tiles.gpkg"), read_tile_index(files["tiles"])
    assert tagged.scheme is not None
    index.with_tags(tagged.scheme, tagged.tags(), 0.1).write(tmp_path / "tiles.gpkg")
    scene = {"scene": [other]} if job == "inspect" else {}
    error = refused(job, tmp_path, {**files, "tiles": tmp_path / "tiles.gpkg"}, **scene)
    assert error.parameter in ("tiles", "scene")
    assert "needs the band B08, but the scene other.tif has B04, B11" in error.message


def test_a_tile_index_with_other_classes_paints_nothing(files: dict[str, Path], tmp_path: Path) -> None:
    index = read_tile_index(files["tiles"])
    assert index.scheme is not None
    two = index.scheme.subset(["Forest", "Water"])
    index.with_tags(two, index.tags()[:, [index.scheme.codes.index(c) for c in two.codes]], 0.1).write(
        tmp_path / "two.gpkg"
    )
    error = refused("pseudomask", tmp_path, {**files, "tiles": tmp_path / "two.gpkg"})
    assert error.parameter == "tiles" and "Croplands" in error.message


@pytest.mark.parametrize(("metres", "problem"), [(50_000.0, "does not overlap"), (0.0, "labels no pixel")])
def test_a_pseudomask_of_another_scene_is_refused(
    files: dict[str, Path], tmp_path: Path, metres: float, problem: str
) -> None:
    empty = np.full((112, 112), NODATA, np.uint8)
    other = write_raster(tmp_path / "other.tif", empty, origin=(ORIGIN[0] + metres, ORIGIN[1]), nodata=NODATA)
    error = refused("refine", tmp_path, {**files, "pseudomask": other})
    assert error.parameter == "pseudomask" and problem in error.message and "other.tif" in error.message


def test_a_scene_of_another_resolution_is_refused(tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "coarse.tif", np.ones((2, 20, 20), np.float32), gsd=20, names=["B04", "B08"])
    model = write_tiny_model(tmp_path / "m.safetensors", scheme().subset([1, 6, 10]).to_json(), ["B04", "B08"])
    with pytest.raises(InputError, match="20 m") as raised:
        do("predict", model=model, scene=[scene], output=tmp_path / "map.tif")
    assert raised.value.parameter == "scene"


def test_a_landcover_model_is_no_classifier(road: tuple[Any, dict[str, Path], Diary], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="landcover") as raised:
        do("pseudomask", model=road[1]["model"], tiles=road[1]["tiles"], output=tmp_path / "mask.tif")
    assert raised.value.parameter == "model"


def test_two_outputs_cannot_be_one_file(place: Path, tmp_path: Path) -> None:
    files = outputs(tmp_path)
    with pytest.raises(InputError, match="same file") as raised:
        do(
            "map",
            scene=[place / "scene.tif"],
            scheme=SCHEME,
            **{**files, "report": None, "confidence": files["landcover"]},
        )
    assert raised.value.parameter == "confidence"


@pytest.mark.parametrize("job", ["predict", "pseudomask"])
def test_an_output_replaces_neither_another_one_nor_an_input(
    job: str, files: dict[str, Path], place: Path, tmp_path: Path
) -> None:
    scene = shutil.copy(place / "scene.tif", tmp_path / "scene.tif")
    before = scene.read_bytes()
    request = {"model": files["model"], "scene": [scene], "device": "cpu"}
    for wrong in ({"output": scene}, {"output": tmp_path / "a.tif", "confidence": tmp_path / "a.tif"}):
        with pytest.raises(InputError) as raised:
            do(job, **request, **wrong)
        assert raised.value.parameter == list(wrong)[-1]
    assert list(tmp_path.iterdir()) == [scene] and scene.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "parameter"),
    [
        ({"landcover": "nowhere/map.tif"}, "landcover"),
        ({"model": "map.txt"}, "model"),
        ({"report": "report.html"}, "reference"),
        ({"heads_kept": -0.1}, "heads_kept"),
        ({"method": "clusters"}, "heads_kept"),
        ({"method": "clusters", "network": "weaktr"}, "method"),
        ({"method": "fine_cam"}, "method"),
        ({"decoder": "segmenter", "network": "weaktr"}, "decoder"),
        ({"encoder": "resnet1812"}, "encoder"),
        ({"epochs": "many"}, "epochs"),
        ({"optimizer": "adam"}, "optimizer"),
        ({"scene": None}, "scene"),
    ],
)
def test_a_request_that_cannot_work_is_refused_before_any_work(
    place: Path, tmp_path: Path, changes: dict[str, Any], parameter: str
) -> None:
    request = {"scene": [place / "scene.tif"], "scheme": SCHEME, **outputs(tmp_path), "report": None}
    changes = {k: tmp_path / v if k in request and isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(InputError) as raised:
        do("map", **{**request, **changes})
    assert raised.value.parameter == parameter
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("box", "changes", "parameter"),
    [
        ((0, 0, 200, 200), {}, "reference_field"),
        ((0, 0, 200, 200), {"reference_field": "klass"}, "reference_field"),
        ((0, 0, 200, 200), {"reference_field": "class"}, "reference_mapping"),
        ((0, 0, 200, 200), {"reference_field": "class", "reference_mapping": {"1": "Moon"}}, "reference_mapping"),
        ((90_000, 0, 90_200, 200), {"reference_field": "class"}, "reference"),
        (None, {}, "reference"),
        ((0, 0, 200, 200), {"reference_field": "class", "report": None}, "report"),
    ],
    ids=["no field", "another field", "unknown class", "unknown target", "elsewhere", "no file", "no report"],
)
def test_a_reference_that_cannot_be_used_is_refused_before_any_work(
    place: Path,
    tmp_path: Path,
    box: tuple[float, float, float, float] | None,
    changes: dict[str, Any],
    parameter: str,
) -> None:
    reference = tmp_path / "reference.gpkg"
    if box:
        x, y = ORIGIN[0], ORIGIN[1] - 200
        shape = shapely.box(x + box[0], y + box[1], x + box[2], y + box[3])
        write_layer(reference, [shape], **{"class": ["Rainforest"]})
    before = set(tmp_path.iterdir())
    request = {"scene": [place / "scene.tif"], "scheme": SCHEME, "reference": reference, **outputs(tmp_path)}
    with pytest.raises(InputError) as raised:
        do("map", **request | changes)
    assert raised.value.parameter == parameter and raised.value.hint
    assert set(tmp_path.iterdir()) == before


def test_a_reference_may_have_values_of_its_own(place: Path, tmp_path: Path) -> None:
    shape = shapely.box(ORIGIN[0], ORIGIN[1] - 200, ORIGIN[0] + 200, ORIGIN[1])
    reference = write_layer(tmp_path / "reference.gpkg", [shape], **{"class": ["Rainforest"]})
    request = {"scene": [place / "scene.tif"], "scheme": SCHEME, "reference": reference, **outputs(tmp_path)}
    request |= {"reference_field": "class", "reference_mapping": {"Rainforest": "Forest"}}
    with pytest.raises(InputError) as raised:  # of the tags, which come after the reference
        do("map", **request)
    assert raised.value.parameter == "field"


def test_a_value_of_the_wrong_kind_names_its_parameter() -> None:
    with pytest.raises(InputError) as raised:
        get_job("assess").parse({"map": "m.tif", "reference": "r.tif", "output": "o.html", "mapping": {"11": 1.5}})
    assert raised.value.parameter == "mapping"
    with pytest.raises(InputError) as raised:
        get_job("train").parse({"tiles": "t.gpkg", "output": "o.safetensors", "training": {"foo": 3}})
    assert raised.value.parameter == "foo"


@pytest.mark.parametrize("beyond", [False, True])
def test_a_mask_may_reach_beyond_the_projection_if_some_of_it_does_not(
    files: dict[str, Path], place: Path, tmp_path: Path, beyond: bool
) -> None:
    x, y = ORIGIN
    here = geopandas.GeoSeries([shapely.box(x, y - 400, x + 400, y)], crs="EPSG:32618").to_crs("EPSG:4326")
    shapes = [shapely.box(-180, -90, -170, -80), *([] if beyond else here.tolist())]
    mask = write_layer(tmp_path / "mask.gpkg", shapes, crs="EPSG:4326")
    request = {"model": files["model"], "scene": [place / "scene.tif"], "mask": mask, "output": tmp_path / "m.tif"}
    if beyond:
        with pytest.raises(InputError) as raised:
            do("predict", **request)
        assert raised.value.parameter == "mask"
        return
    do("predict", **request, device="cpu")
    with rasterio.open(tmp_path / "m.tif") as src:
        assert (src.read(1) != NODATA).any()


def test_flat_and_nested_requests_mean_the_same() -> None:
    job = get_job("train")
    files = {"tiles": "t.gpkg", "output": "m.safetensors"}
    flat = job.parse({**files, "epochs": 3, "batch": 4})
    assert flat == job.parse({**files, "classifier": {"epochs": 3}, "training": {"batch": 4}})
    assert flat == job.parse({**files, "classifier": {"epochs": 3}, "batch": 4})


@pytest.mark.parametrize("name", JOBS)
def test_every_value_a_user_may_set_is_described_and_named_once(name: str) -> None:
    leaves = list(get_job(name).request.leaves())
    names = [leaf for _, leaf, _ in leaves]
    assert len(names) == len(set(names))
    assert all(field.description and field.description.endswith(".") for _, _, field in leaves)


def test_an_unknown_job_is_an_input_error() -> None:
    with pytest.raises(InputError, match="knit"):
        get_job("knit")


def test_an_empty_scene_gives_an_empty_map(tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "void.tif", np.full((2, 40, 40), -1, np.float32), names=["B04", "B08"], nodata=-1)
    model = write_tiny_model(tmp_path / "m.safetensors", scheme().subset([1, 6, 10]).to_json(), ["B04", "B08"])
    assert tiny_model().architecture.tile == SIDE
    try:
        do("predict", model=model, scene=[scene], output=tmp_path / "map.tif", device="cpu")
    except InputError as err:  # said plainly
        assert err.parameter == "scene"
        assert not (tmp_path / "map.tif").exists()
    else:
        with rasterio.open(tmp_path / "map.tif") as src:
            assert (src.read(1) == NODATA).all()


def test_tiles_of_the_index_are_an_ordinary_layer(road: tuple[Any, dict[str, Path], Diary]) -> None:
    frame = geopandas.read_file(road[1]["tiles"])
    assert {"split", "has_forest", "has_water"} <= set(frame.columns)


@pytest.mark.parametrize("job", ["refine", "suggest"])
def test_rasters_in_place_of_the_scene_keep_their_own_band_names(
    job: str, files: dict[str, Path], tmp_path: Path
) -> None:
    other = write_scene(tmp_path / "other.tif", ["B04", "B11"])
    error = refused(job, tmp_path, files, scene=[other])
    assert error.parameter == "scene" and "needs the band B08, but the scene other.tif has B04, B11" in error.message


@pytest.mark.parametrize("names", [["B08", "B04"], ["", ""]], ids=["named", "unnamed"])
def test_bands_of_rasters_in_place_of_the_scene_are_found_by_name(
    files: dict[str, Path], tmp_path: Path, names: list[str]
) -> None:
    index = read_tile_index(files["tiles"])
    values = np.stack([np.full((112, 112), 8.0), np.full((112, 112), 4.0)]).astype(np.float32)
    other = write_raster(tmp_path / "other.tif", values, names=names)
    read = load_tiles(index, ["B04", "B08"], Reporter(), [other]).values
    by_band = [float(read[:, band].max()) for band in (0, 1)]
    assert by_band == ([4.0, 8.0] if names[0] else [8.0, 4.0])  # without names they take the places of the index's


@pytest.mark.parametrize("job", ["refine", "pseudomask", "suggest"])
def test_tiles_of_another_pixel_size_are_refused(job: str, files: dict[str, Path], tmp_path: Path) -> None:
    coarse = write_raster(tmp_path / "coarse.tif", np.ones((2, 112, 112), np.float32), names=["B04", "B08"], gsd=20.0)
    do("tiles", scene=[coarse], output=tmp_path / "tiles.gpkg", **CUTTING | {"tile_size_m": 320})
    index, tagged = read_tile_index(tmp_path / "tiles.gpkg"), read_tile_index(files["tiles"])
    assert tagged.scheme is not None
    index.with_tags(tagged.scheme, tagged.tags()[: len(index)], 0.1).write(tmp_path / "tiles.gpkg")
    error = refused(job, tmp_path, {**files, "tiles": tmp_path / "tiles.gpkg"})
    assert error.parameter in ("tiles", "scene") and "pixels of 20 m, the model of 10 m" in error.message


def test_training_tiles_that_cannot_teach_a_class_are_pointed_out(files: dict[str, Path], tmp_path: Path) -> None:
    index, warned = read_tile_index(files["tiles"]), Warned()
    tags, training = index.tags(), (index.frame["split"] == "train").to_numpy()
    tags[training & (tags[:, 0] != UNKNOWN), 0] = 1
    tags[~training & (tags[:, 0] != UNKNOWN), 0] = 0  # over all tiles there is contrast
    index.retagged(tags).write(tmp_path / "tiles.gpkg")
    do("train", warned, tiles=tmp_path / "tiles.gpkg", output=tmp_path / "m.safetensors", **TRAINING)
    assert any(line.startswith("Training tiles: Forest is present in every tile") for line in warned.lines)
