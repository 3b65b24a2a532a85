"""Folders of patches in the layouts of DFC2020/SEN12MS and BigEarthNet."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from small_models import CODES, REFINING, TRAINING, class_mosaic, textured
from small_rasters import ORIGIN, RESOURCES, development_data, scheme, write_raster

from sparsevit.errors import InputError
from sparsevit.geodata.legend import NODATA
from sparsevit.geodata.scene import open_scene
from sparsevit.geodata.tile_index import groups, read_tile_index
from sparsevit.jobs import predict, pseudomask, refine, tag, tiles, train
from sparsevit.models.model_file import read_card
from sparsevit.reporting import Reporter
from sparsevit.training.tagged import load_training_data

SIDE = 8
DFC = RESOURCES / "schemes" / "dfc2020.json"


def run(job: Any, **params: Any) -> Any:
    return job.JOB.run(job.JOB.parse({k: str(v) if isinstance(v, Path) else v for k, v in params.items()}), Reporter())


def dfc_patch(root: Path, rois: str, scene: str, number: int, code: int = 1, place: int = 0, **profile: Any) -> None:
    """A patch of 13 + 2 bands, its land cover, and its coarse IGBP land cover."""
    random = np.random.default_rng(number)
    origin = (ORIGIN[0] + 1000 * place, ORIGIN[1])

    def write(sensor: str, values: np.ndarray) -> None:
        path = root / rois / f"{sensor}_{scene}" / f"{rois}_{sensor}_{scene}_p{number}.tif"
        write_raster(path, values, origin=origin, **profile)

    write("s2", random.integers(1, 9000, (13, SIDE, SIDE)).astype(np.uint16))
    write("s1", random.uniform(-25, -1, (2, SIDE, SIDE)).astype(np.float32))
    write("dfc", np.full((SIDE, SIDE), code, np.uint8))
    write("lc", np.full((SIDE, SIDE), 17, np.uint8))


def test_the_published_split_bands_and_labels_of_dfc2020_are_read(tmp_path: Path) -> None:
    for i, code in enumerate((1, 10, 1)):
        dfc_patch(tmp_path, "ROIs0000_validation", "validation", i, code, i)
    dfc_patch(tmp_path, "ROIs0000_test", "0", 7, 10, 9)
    output = tmp_path / "p.gpkg"
    result = run(tiles, folder=tmp_path, layout="dfc2020", output=output)
    assert (result.tiles, result.train, result.test, result.validation) == (4, 3, 1, 0)
    index = read_tile_index(output)
    assert index.frame["patch"].tolist()[0] == "ROIs0000_test_0_p7"
    assert len(index.band_names) == 15
    assert index.band_names[8:13] == ["B8A", "B09", "B10", "B11", "B12"]
    assert index.band_names[13:] == ["VV", "VH"]
    for (files, members), window in zip(groups(index), index.windows(), strict=True):
        with open_scene(files, index.band_names) as scene:
            values, valid = scene.read(window)
        assert values.shape == (15, SIDE, SIDE)
        assert valid.all()
        assert len(members) == 1
    run(tag, tiles=output, scheme=DFC, source="raster")
    index = read_tile_index(output)
    assert index.scheme is not None
    assert (index.scheme.names, index.tags().tolist()) == (["Forest", "Water"], [[0, 1], [1, 0], [0, 1], [1, 0]])
    mapping = RESOURCES / "schemes" / "igbp_to_dfc2020.json"
    coarse = run(tag, tiles=output, scheme=DFC, source="raster", field="lc", mapping=mapping)
    assert coarse.present == {"Water": 4}


def test_season_folders_are_split_by_blocks_and_need_no_labels(tmp_path: Path) -> None:
    for i in range(12):
        dfc_patch(tmp_path, "ROIs1158_spring", "1", i, place=i)
    for kind in ("dfc", "lc", "s1"):
        shutil.rmtree(tmp_path / "ROIs1158_spring" / f"{kind}_1")
    blocks = {"block_size_m": 1000.0, "gap_m": 0.0}
    result = run(tiles, folder=tmp_path, layout="dfc2020", output=tmp_path / "p.gpkg", **blocks)
    assert (result.train, result.validation, result.gap) == (10, 2, 0)
    index = read_tile_index(tmp_path / "p.gpkg")
    assert len(index.band_names) == 13
    assert "reference" not in index.frame


def test_a_patch_without_its_radar_file_is_named(tmp_path: Path) -> None:
    for i in range(2):
        dfc_patch(tmp_path, "ROIs0000_validation", "validation", i)
    missing = tmp_path / "ROIs0000_validation" / "s1_validation" / "ROIs0000_validation_s1_validation_p1.tif"
    missing.unlink()
    with pytest.raises(InputError, match=r"s1_validation_p1\.tif is missing"):
        run(tiles, folder=tmp_path, layout="dfc2020", output=tmp_path / "p.gpkg")


@pytest.mark.parametrize("layout", ["dfc2020", "bigearthnet"])
def test_a_folder_in_no_layout_is_refused(tmp_path: Path, layout: str) -> None:
    with pytest.raises(InputError, match=f"no patches in the layout '{layout}'"):
        run(tiles, folder=tmp_path, layout=layout, output=tmp_path / "p.gpkg")
    with pytest.raises(InputError, match="does not exist"):
        run(tiles, folder=tmp_path / "none", layout=layout, output=tmp_path / "p.gpkg")


def test_empty_patches_are_left_out(tmp_path: Path) -> None:
    dfc_patch(tmp_path, "ROIs0000_validation", "validation", 0)
    dfc_patch(tmp_path, "ROIs0000_validation", "validation", 1)
    path = tmp_path / "ROIs0000_validation" / "s2_validation" / "ROIs0000_validation_s2_validation_p1.tif"
    write_raster(path, np.zeros((13, SIDE, SIDE), np.uint16), nodata=0)
    result = run(tiles, folder=tmp_path, layout="dfc2020", output=tmp_path / "p.gpkg")
    assert (result.tiles, result.empty) == (1, 1)


def test_other_band_counts_need_names(tmp_path: Path) -> None:
    path = tmp_path / "ROIs0000_test" / "s2_0" / "ROIs0000_test_s2_0_p0.tif"
    write_raster(path, np.ones((3, SIDE, SIDE), np.uint16))
    with pytest.raises(InputError, match="other bands than the 13"):
        run(tiles, folder=tmp_path, layout="dfc2020", output=tmp_path / "p.gpkg")
    run(tiles, folder=tmp_path, layout="dfc2020", output=tmp_path / "p.gpkg", band_names=["a", "b", "c"])
    assert read_tile_index(tmp_path / "p.gpkg").band_names == ["a", "b", "c"]


def ben_patch(root: Path, s2: str, s1: str | None, labels: list[str], place: int, crs: str = "EPSG:32633") -> None:
    """A patch with 10, 20 and 60 m bands in files of their own, its labels, and its radar partner."""
    origin = (ORIGIN[0] + 1200 * place, ORIGIN[1])
    for band, gsd, side in (("B02", 10, 12), ("B11", 20, 6), ("B01", 60, 2)):
        values = np.full((side, side), 100 + gsd, np.uint16)
        write_raster(root / "s2" / s2 / f"{s2}_{band}.tif", values, gsd=gsd, origin=origin, crs=crs)
    (root / "s2" / s2 / f"{s2}_labels_metadata.json").write_text(json.dumps({"labels": labels}))
    if s1 is not None:
        for band in ("VV", "VH"):
            values = np.full((12, 12), -10 - place, np.float32)
            write_raster(root / "s1" / s1 / f"{s1}_{band}.tif", values, origin=origin, crs=crs)


def test_bigearthnet_pairs_sensors_and_reads_their_labels(tmp_path: Path) -> None:
    arable = "Land principally occupied by agriculture, with significant areas of natural vegetation"
    ben_patch(tmp_path, "S2A_MSIL2A_20170613T101031_1_2", "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_1_2", [arable], 0)
    # The same place on another day, and a patch of another zone whose partner is named by its metadata.
    ben_patch(tmp_path, "S2A_MSIL2A_20171210T101031_1_2", "S1A_IW_GRDH_1SDV_20171211T165043_33UUP_1_2", ["Pastures"], 0)
    named = "S1B_IW_GRDH_1SDV_20180101T000000_29SND_5_6"
    ben_patch(tmp_path, "S2B_MSIL2A_20170924T93020_5_6", named, ["Sea and ocean", "Peatbogs"], 3, "EPSG:32629")
    (tmp_path / "s1" / named / f"{named}_labels_metadata.json").write_text(
        json.dumps({"corresponding_s2_patch": "S2B_MSIL2A_20170924T93020_5_6"})
    )
    output = tmp_path / "p.gpkg"
    run(tiles, folder=tmp_path, layout="bigearthnet", output=output)
    index = read_tile_index(output)
    assert index.band_names == ["B02", "B11", "B01", "VV", "VH"]
    assert index.frame.crs.to_epsg() == 4326
    pairs = [(Path(f[0]).parent.name, Path(f[-1]).parent.name) for f in index.frame["files"].map(json.loads)]
    assert [s1[17:25] for _, s1 in pairs] == ["20170613", "20171211", "20180101"]
    files, members = next(iter(groups(index)))
    with open_scene(files, index.band_names) as scene:
        values, valid = scene.read(index.windows()[int(members[0])])
    assert values[:, 6, 6].tolist() == [110, 120, 160, -10, -10]
    assert valid.all()
    mapping = RESOURCES / "schemes" / "corine_to_level1.json"
    corine = RESOURCES / "schemes" / "corine_level1.json"
    result = run(tag, tiles=output, scheme=corine, source="text", field="labels", mapping=mapping)
    assert result.present == {"Agricultural areas": 2, "Wetlands": 1, "Water bodies": 1}


def test_bigearthnet_without_radar_or_labels_is_read(tmp_path: Path) -> None:
    ben_patch(tmp_path, "S2A_MSIL2A_20170613T101031_1_2", None, [], 0)
    run(tiles, folder=tmp_path, layout="bigearthnet", output=tmp_path / "p.gpkg")
    index = read_tile_index(tmp_path / "p.gpkg")
    assert index.band_names == ["B02", "B11", "B01"]
    assert "labels" not in index.frame
    assert index.frame.crs.to_epsg() == 32633


def test_an_optical_patch_without_partner_is_named(tmp_path: Path) -> None:
    ben_patch(tmp_path, "S2A_MSIL2A_20170613T101031_1_2", "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_1_2", ["Pastures"], 0)
    ben_patch(tmp_path, "S2A_MSIL2A_20170613T101031_3_4", None, ["Pastures"], 1)
    with pytest.raises(InputError, match=r"101031_3_4 has no Sentinel-1 patch"):
        run(tiles, folder=tmp_path, layout="bigearthnet", output=tmp_path / "p.gpkg")


def test_published_bigearthnet_examples_are_read(tmp_path: Path) -> None:
    for name in ("BigEarthNet-S1-Example", "BigEarthNet-S2-Example"):
        shutil.copytree(development_data("bigearthnet_samples", name), tmp_path / name)
    output = tmp_path / "p.gpkg"
    result = run(tiles, folder=tmp_path, layout="bigearthnet", output=output, block_size_m=2400.0)
    assert (result.tiles, result.empty) == (6, 0)
    index = read_tile_index(output)
    assert len(index.band_names) == 14
    mapping = RESOURCES / "schemes" / "corine_to_level1.json"
    corine = RESOURCES / "schemes" / "corine_level1.json"
    tagged = run(tag, tiles=output, scheme=corine, source="text", field="labels", mapping=mapping)
    assert tagged.present["Agricultural areas"] == 5
    for files, _ in groups(index):
        with open_scene(files, index.band_names) as scene:
            values, valid = scene.read(index.windows()[0])
        assert values.shape == (14, 120, 120)
        assert valid.mean() > 0.9


def test_published_reference_maps_tag_their_patches(tmp_path: Path) -> None:
    """BigEarthNet v2: CORINE codes per pixel, in a raster named after the patch."""
    source = development_data("bigearthnet_samples", "v2")
    optical = next((source / "BigEarthNet-S2").rglob("*_B02.tif")).parent
    reference = next((source / "Reference_Maps").rglob("*_reference_map.tif"))
    shutil.copytree(optical, tmp_path / optical.name)
    # The published samples are of different places: put the reference on the patch.
    with rasterio.open(reference) as src, rasterio.open(optical / f"{optical.name}_B02.tif") as patch:
        origin = (patch.bounds.left, patch.bounds.top)
        write_raster(
            tmp_path / f"{optical.name}_reference_map.tif", src.read(), origin=origin, crs=str(patch.crs), nodata=0
        )
        found = {int(c) // 100 for c in np.unique(src.read()) if (src.read() == c).mean() >= 0.1}
    output = tmp_path / "p.gpkg"
    run(tiles, folder=tmp_path, layout="bigearthnet", output=output)
    mapping = RESOURCES / "schemes" / "corine_to_level1.json"
    corine = RESOURCES / "schemes" / "corine_level1.json"
    run(tag, tiles=output, scheme=corine, source="raster", mapping=mapping)
    index = read_tile_index(output)
    assert index.scheme is not None
    assert set(index.scheme.codes) >= found
    assert scheme("corine_level1").subset([str(c) for c in index.scheme.codes]) == index.scheme


# --- from patches to a model and back ---------------------------------------------------------------------------------

PATCH_SIDE = 32


def mosaic_patch(root: Path, number: int) -> None:
    """A patch of two bands from its own piece of a mosaic of classes; two of three scenes hold two classes only."""
    classes = class_mosaic(PATCH_SIDE, seed=number)
    classes[-8:] = CODES[number % 3]  # so that every class occurs often
    if number % 3:
        classes[classes == CODES[number % 3 - 1]] = CODES[number % 3]
    values = textured(classes, seed=number).clip(1).astype(np.uint16)
    place = (ORIGIN[0] + 1000 * number, ORIGIN[1] - 70 * number)
    scene = number % 2
    for sensor, raster in (("s2", values), ("dfc", classes)):
        path = root / "ROIs1158_spring" / f"{sensor}_{scene}" / f"ROIs1158_spring_{sensor}_{scene}_p{number // 2}.tif"
        write_raster(path, raster, origin=place)


@pytest.fixture(scope="module")
def patch_road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve patches of two scenes, numbered alike, on the road to a refined model."""
    home = tmp_path_factory.mktemp("patches")
    for number in range(12):
        mosaic_patch(home / "data", number)
    index, cpu = home / "p.gpkg", {"device": "cpu", "precision": "32-true"}
    cutting = {"block_size_m": 1000.0, "gap_m": 0.0, "band_names": ["B04", "B08"]}
    run(tiles, folder=home / "data", layout="dfc2020", output=index, **cutting)
    run(tag, tiles=index, scheme=DFC, source="raster")
    classifier = home / "classifier.safetensors"
    run(train, tiles=index, output=classifier, **{**TRAINING, "spectral_epochs": 60})
    painting = {"spectral_weight": 1.0, "ignore_margin": 0.1, **cpu}
    run(pseudomask, model=classifier, tiles=index, output=home / "masks", confidence=home / "margins", **painting)
    inputs = {"tiles": index, "classifier": classifier, "pseudomask": home / "masks"}
    run(refine, **inputs, **REFINING, **cpu, output=home / "refined.safetensors")
    return home


def true_classes(path: Path) -> np.ndarray:
    """The land cover that belongs to a patch."""
    with rasterio.open(
        path.parent.parent / path.parent.name.replace("s2", "dfc") / path.name.replace("s2", "dfc")
    ) as src:
        return src.read(1)


def test_every_patch_has_a_pseudomask_of_its_own_grid_tags_and_content(patch_road: Path) -> None:
    index = read_tile_index(patch_road / "p.gpkg")
    assert index.scheme is not None
    assert len(list((patch_road / "masks").glob("*.tif"))) == len(list((patch_road / "margins").glob("*.tif"))) == 12
    for (files, _), tags in zip(groups(index), index.tags(), strict=True):
        with rasterio.open(files[0]) as patch, rasterio.open(patch_road / "masks" / files[0].name) as mask:
            assert (mask.crs, mask.transform, mask.shape) == (patch.crs, patch.transform, patch.shape)
            labels = mask.read(1)
        allowed = {c for c, known in zip(index.scheme.codes, tags, strict=True) if known == 1}
        assert set(np.unique(labels)) <= allowed | {NODATA}
        painted = labels != NODATA
        assert painted.mean() > 0.5
        assert (labels == true_classes(files[0]))[painted].mean() > 0.8, files[0].name


def test_refinement_reads_the_mask_of_the_very_patch(patch_road: Path) -> None:
    index = read_tile_index(patch_road / "p.gpkg")
    card = read_card(patch_road / "classifier.safetensors")
    assert index.scheme is not None
    data = load_training_data(index, [], index.scheme.names, card.bands, Reporter())
    params = {"tiles": "p.gpkg", "classifier": "c.safetensors", "output": "m.safetensors"}
    request = refine.JOB.parse({**params, "pseudomask": str(patch_road / "masks")})
    masks = refine.read_masks(data.train_index, request, index.scheme)
    assert len(masks) == len(data.train) > 5
    codes = np.array([*index.scheme.codes, NODATA])  # the last one is index -1: unlabelled
    for (files, _), mask, values in zip(groups(data.train_index), masks.numpy(), data.train.store.values, strict=True):
        with rasterio.open(files[0]) as patch, rasterio.open(patch_road / "masks" / files[0].name) as painted:
            np.testing.assert_array_equal(values, patch.read())
            np.testing.assert_array_equal(codes[mask], painted.read(1))


@pytest.mark.parametrize("job", [train, pseudomask, refine])
def test_rasters_in_place_of_those_of_patches_are_refused(job: Any, patch_road: Path, tmp_path: Path) -> None:
    """Every patch would be read from their corner."""
    model, other = patch_road / "classifier.safetensors", next(patch_road.glob("**/*.tif"))
    files = {"tiles": patch_road / "p.gpkg", "scene": [other], "output": tmp_path / "o.safetensors"}
    files |= {"pseudomask": {"model": model}, "refine": {"classifier": model, "pseudomask": patch_road / "masks"}}.get(
        job.JOB.name, {}
    )
    with pytest.raises(InputError, match="patches with rasters of their own") as raised:
        run(job, **files)
    assert raised.value.parameter == "scene"


def test_the_model_refined_on_patches_maps_a_patch(patch_road: Path) -> None:
    files, _ = list(groups(read_tile_index(patch_road / "p.gpkg")))[3]
    target, model = patch_road / "map.tif", patch_road / "refined.safetensors"
    assert read_card(model).kind == "landcover"
    run(predict, model=model, scene=[str(files[0])], band_names=["B04", "B08"], output=target, device="cpu")
    with rasterio.open(files[0]) as patch, rasterio.open(target) as mapped:
        assert (mapped.crs, mapped.transform, mapped.shape) == (patch.crs, patch.transform, patch.shape)
        assert set(np.unique(mapped.read(1))) <= set(CODES)
        assert (mapped.read(1) == true_classes(files[0])).mean() > 0.8


def test_a_patch_without_its_pseudomask_is_named(patch_road: Path, tmp_path: Path) -> None:
    shutil.copytree(patch_road / "masks", tmp_path / "masks")
    index = read_tile_index(patch_road / "p.gpkg").in_split("train")
    missing = next(groups(index))[0][0].name
    (tmp_path / "masks" / missing).unlink()
    inputs = {"tiles": patch_road / "p.gpkg", "classifier": patch_road / "classifier.safetensors"}
    with pytest.raises(InputError, match=missing) as raised:
        run(refine, **inputs, pseudomask=tmp_path / "masks", output=tmp_path / "refined.safetensors", device="cpu")
    assert raised.value.parameter == "pseudomask"
    assert not (tmp_path / "refined.safetensors").exists()
