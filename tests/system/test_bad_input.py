"""The truth table: what cannot work ends with exit code 1 and one sentence, and harms nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import SAMPLE, TRAINING, Place, QgisProcess
from rasterio.crs import CRS

pytestmark = pytest.mark.usefixtures("steps")

Refusal = Callable[..., str]


@pytest.fixture
def refusal(qgis: QgisProcess, tmp_path: Path) -> Refusal:
    """A function that runs what cannot work, checks what holds for every such run, and gives the reason.

    `OUTPUT` is an existing file with the given suffix.
    """

    def run(algorithm: str, suffix: str = ".tif", environment: dict[str, str] | None = None, **values: object) -> str:
        existing = tmp_path / f"existing{suffix}"
        existing.write_bytes(b"precious")
        before = set(tmp_path.iterdir())
        done = qgis.run(algorithm, environment=environment, **{"OUTPUT": existing, **values})
        assert done.code == 1, done.out
        assert "Traceback" not in done.out + done.err
        assert existing.read_bytes() == b"precious"
        assert set(tmp_path.iterdir()) == before  # no half file either
        assert done.reason, done.err
        return done.reason

    return run


def rewrite(source: Path, target: Path, **changes: object) -> Path:
    """Copy a raster with other pixels (`data`) or another profile."""
    with rasterio.open(source) as raster:
        data = changes.pop("data", raster.read())
        assert isinstance(data, np.ndarray)
        with rasterio.open(target, "w", **{**raster.profile, "count": len(data), **changes}) as copy:
            copy.write(data)
            copy.descriptions = raster.descriptions[: len(data)]
    return target


def test_missing_raster(refusal: Refusal) -> None:
    reason = refusal("createtiles", ".gpkg", SCENE=["/nowhere/scene.tif"])
    assert "/nowhere/scene.tif" in reason and "SCENE" in reason


def test_corrupt_raster(refusal: Refusal, place: Place, tmp_path: Path) -> None:
    corrupt = tmp_path / "corrupt.tif"
    corrupt.write_bytes(b"II*\0 this is no raster")
    assert "corrupt.tif" in refusal("predictlandcover", MODEL=place.model, SCENE=[corrupt])


def test_truncated_raster(refusal: Refusal, place: Place, tmp_path: Path) -> None:
    whole = place.scene.read_bytes()
    truncated = tmp_path / "truncated.tif"
    truncated.write_bytes(whole[: len(whole) // 2])
    reason = refusal("predictlandcover", MODEL=place.model, SCENE=[truncated, place.scene_20m])
    assert "truncated.tif" in reason


def test_raster_with_damaged_pixels(refusal: Refusal, place: Place, tmp_path: Path) -> None:
    content = bytearray(place.scene.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    damaged = tmp_path / "damaged.tif"
    damaged.write_bytes(content)
    reason = refusal("predictlandcover", MODEL=place.model, SCENE=[damaged, place.scene_20m])
    assert "damaged.tif" in reason


def test_bands_that_the_model_lacks(refusal: Refusal, place: Place) -> None:
    reason = refusal("predictlandcover", MODEL=place.model, SCENE=[place.scene])
    assert "B11" in reason


def test_raster_without_coordinate_system(refusal: Refusal, place: Place, tmp_path: Path) -> None:
    bare = rewrite(place.scene, tmp_path / "bare.tif", crs=None)
    assert "bare.tif" in refusal("createtiles", ".gpkg", SCENE=[bare])


def test_unrelated_coordinate_systems(refusal: Refusal, place: Place, tmp_path: Path) -> None:
    elsewhere = rewrite(place.scene_20m, tmp_path / "elsewhere.tif", crs=CRS.from_epsg(32722))
    reason = refusal("predictlandcover", MODEL=place.model, SCENE=[place.scene, elsewhere])
    assert "elsewhere.tif" in reason


def test_scene_and_tags_do_not_overlap(refusal: Refusal, place: Place, tmp_path: Path) -> None:
    moved = tmp_path / "moved.gpkg"
    tags = geopandas.read_file(place.tags)
    tags.set_geometry(tags.translate(50_000, 0)).to_file(moved, driver="GPKG")
    reason = refusal("tagtiles", ".gpkg", TILES=place.tiles, LAYER=moved, FIELD="classes", SOURCE="text")
    assert "moved.gpkg" in reason


def test_no_tagged_tiles(refusal: Refusal, qgis: QgisProcess, place: Place, tmp_path: Path) -> None:
    untagged = tmp_path / "untagged.gpkg"
    assert qgis.run("createtiles", SCENE=[place.scene], BLOCK_SIZE_M=1280, GAP_M=0, OUTPUT=untagged).code == 0
    reason = refusal("trainclassifier", ".safetensors", TILES=untagged, **TRAINING)
    assert "no tags" in reason and "“Tag tiles”" in reason


def test_class_that_is_never_present(refusal: Refusal, place: Place) -> None:
    reason = refusal("trainclassifier", ".safetensors", TILES=place.tiles, CLASSES="Forest, Savanna", **TRAINING)
    assert "Savanna" in reason


@pytest.mark.parametrize(
    ("texts", "warning"),
    [
        (["Forest, Water", "Forest"], "Forest is present in every tile where it is known"),
        (["Forest, Water", "Croplands"], "Forest and Water always occur together"),
    ],
    ids=["a class everywhere", "two classes together"],
)
def test_tags_that_cannot_teach_a_class_are_pointed_out(
    qgis: QgisProcess, place: Place, tmp_path: Path, texts: list[str], warning: str
) -> None:
    layer, output = tmp_path / "tags.gpkg", tmp_path / "tiles.gpkg"
    tags = geopandas.read_file(place.tags)
    tags.assign(classes=[texts[k % 2] for k in range(len(tags))]).to_file(layer, driver="GPKG")
    done = qgis.run("tagtiles", TILES=place.tiles, LAYER=layer, FIELD="classes", SOURCE="text", OUTPUT=output)
    assert done.code == 0, done.reason  # the tags may be all that there is
    assert warning in done.out + done.err
    assert output.is_file()


def test_class_that_the_scheme_lacks(refusal: Refusal, place: Place) -> None:
    reason = refusal("trainclassifier", ".safetensors", TILES=place.tiles, CLASSES="Forest, Lava", **TRAINING)
    assert "Lava" in reason


def test_all_nodata(refusal: Refusal, place: Place, tmp_path: Path) -> None:
    with rasterio.open(place.scene) as raster:
        zeros = np.zeros_like(raster.read())
    empty = rewrite(place.scene, tmp_path / "empty.tif", data=zeros, nodata=0)
    reason = refusal("createtiles", ".gpkg", SCENE=[empty])
    assert "valid pixels" in reason and "MIN_VALID" in reason


def test_map_that_is_no_class_raster(refusal: Refusal, place: Place, tmp_path: Path) -> None:
    confidence = place.folder / "confidence.tif"
    assert "confidence.tif carries no legend" in refusal("vectorizelandcover", ".gpkg", MAP=confidence)
    scheme = SAMPLE.parents[1] / "schemes" / "dfc2020.json"
    reason = refusal("vectorizelandcover", ".gpkg", MAP=confidence, SCHEME=scheme)
    assert "confidence.tif is no class raster" in reason


def test_confidence_on_another_grid(refusal: Refusal, place: Place) -> None:
    reason = refusal("vectorizelandcover", ".gpkg", MAP=place.landcover, CONFIDENCE=place.folder / "heads.tif")
    assert "heads.tif" in reason


def test_folder_of_output_does_not_exist(refusal: Refusal, place: Place) -> None:
    reason = refusal("createtiles", SCENE=[place.scene], OUTPUT="/nowhere/tiles.gpkg")
    assert "/nowhere" in reason and "OUTPUT" in reason


def test_folder_of_output_is_a_file(refusal: Refusal, place: Place) -> None:
    assert "OUTPUT" in refusal("createtiles", SCENE=[place.scene], OUTPUT=place.tags / "tiles.gpkg")


def test_output_of_a_kind_that_is_not_written(refusal: Refusal, place: Place, tmp_path: Path) -> None:
    reason = refusal("predictlandcover", MODEL=place.model, SCENE=[place.scene], OUTPUT=tmp_path / "map.jpg")
    assert "map.jpg" in reason and ".tif" in reason


def test_output_is_an_input(refusal: Refusal, place: Place) -> None:
    before = place.scene.read_bytes()
    reason = refusal("predictlandcover", MODEL=place.model, SCENE=[place.scene, place.scene_20m], OUTPUT=place.scene)
    assert "SCENE" in reason
    assert place.scene.read_bytes() == before


def test_truncated_model(refusal: Refusal, place: Place, tmp_path: Path) -> None:
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(place.model.read_bytes()[:5000])
    reason = refusal("predictlandcover", MODEL=truncated, SCENE=[place.scene, place.scene_20m])
    assert "truncated.safetensors" in reason


def test_file_that_is_no_model(refusal: Refusal, place: Place, tmp_path: Path) -> None:
    other = Path(shutil.copy(place.scene, tmp_path / "other.safetensors"))
    assert "other.safetensors" in refusal("predictlandcover", MODEL=other, SCENE=[place.scene, place.scene_20m])


def test_model_of_another_kind(refusal: Refusal, place: Place) -> None:
    reason = refusal("generatepseudomasks", MODEL=place.model, TILES=place.tiles)
    assert place.model.name in reason


def test_tile_index_of_another_scene(refusal: Refusal, place: Place, tmp_path: Path) -> None:
    with rasterio.open(place.scene) as raster:
        away = raster.transform @ Affine.translation(3, 0)
    moved = [rewrite(place.scene, tmp_path / "moved.tif", transform=away), place.scene_20m]
    reason = refusal("trainclassifier", ".safetensors", TILES=place.tiles, SCENE=moved, **TRAINING)
    assert "was not cut from" in reason and "“Create tiles”" in reason


def test_layer_that_is_no_tile_index(refusal: Refusal, place: Place) -> None:
    assert "tags.gpkg" in refusal("trainclassifier", ".safetensors", TILES=place.tags, **TRAINING)


def test_scheme_that_is_none(refusal: Refusal, place: Place, tmp_path: Path) -> None:
    scheme = tmp_path / "scheme.json"
    scheme.write_text("{}")
    values = {"TILES": place.tiles, "LAYER": place.tags, "FIELD": "classes", "SCHEME": scheme}
    assert "scheme.json" in refusal("tagtiles", ".gpkg", **values)


def test_misspelt_parameter(refusal: Refusal, place: Place) -> None:
    reason = refusal("trainclassifier", ".safetensors", TILES=place.tiles, EPOCH=3)
    assert "did you mean EPOCHS?" in reason


def test_value_out_of_bounds(refusal: Refusal, place: Place) -> None:
    assert "HEADS_KEPT" in refusal("trainclassifier", ".safetensors", TILES=place.tiles, HEADS_KEPT=2)
    assert "HEADS_KEPT" in refusal("trainclassifier", ".safetensors", TILES=place.tiles, HEADS_KEPT=-0.1)


@pytest.mark.parametrize("python", ["", "/nowhere/python", __file__])
def test_engine_is_not_installed(refusal: Refusal, place: Place, python: str) -> None:
    reason = refusal("createtiles", ".gpkg", environment={"SPARSEVIT_PYTHON": python}, SCENE=[place.scene])
    assert "SPARSEVIT_PYTHON" in reason and "Settings" in reason
