"""The tile index: cutting, splitting, tagging, writing and reading."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from small_rasters import ORIGIN, SAMPLE, scheme, write_layer, write_raster

from sparsevit.errors import CancelledError, InputError
from sparsevit.geodata.layers import read_layer
from sparsevit.geodata.scene import open_scene
from sparsevit.geodata.tile_index import UNKNOWN, TileIndex, check_place, groups, read_tile_index
from sparsevit.geodata.tiling import TilingSettings, cut_scene, split_by_blocks
from sparsevit.reporting import CallbackReporter, Reporter

HELD_OUT = ("train", "validation", "test")


def cut(path: Path, **values: object) -> tuple[TileIndex, int]:
    options = {"tile_size_m": 40.0, "block_size_m": 80.0, "gap_m": 0.0, **values}
    extent, centres = options.pop("extent", None), options.pop("centres", None)
    with open_scene([path]) as scene:
        return cut_scene(scene, TilingSettings(**options), Reporter(), extent, centres)


@pytest.fixture
def raster(tmp_path: Path) -> Path:
    return write_raster(tmp_path / "s.tif", np.arange(1, 401, dtype=np.uint16).reshape(20, 20), names=["B02"])


@settings(max_examples=60)
@given(
    corners=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 600)), min_size=1, max_size=60),
    side=st.integers(10, 250),
    block=st.integers(20, 300),
    gap=st.integers(0, 150),
    seed=st.integers(0, 5),
)
def test_tiles_of_different_splits_are_at_least_the_gap_apart(
    corners: list[tuple[int, int]], side: int, block: int, gap: int, seed: int
) -> None:
    options = TilingSettings(
        block_size_m=block, gap_m=gap, validation_share=0.3, test_share=0.2, split_seed=seed, tile_size_m=side
    )
    splits = split_by_blocks(np.array(corners, dtype=float), float(side), options)
    place = np.array(corners, dtype=float)
    apart = np.maximum(np.abs(place[:, None] - place[None]) - side, 0)
    distance = np.hypot(apart[..., 0], apart[..., 1])
    overlapping = (np.abs(place[:, None] - place[None]) < side).all(axis=-1)
    differ = (splits[:, None] != splits[None]) & (splits[:, None] != "gap") & (splits[None] != "gap")
    assert not (differ & overlapping).any()
    assert (distance[differ] >= gap - 0.01).all()


@given(st.integers(0, 20))
def test_every_held_out_split_gets_its_share_of_blocks(seed: int) -> None:
    corners = np.stack(np.meshgrid(np.arange(0, 1000, 10), np.arange(0, 1000, 10)), -1).reshape(-1, 2).astype(float)
    options = TilingSettings(block_size_m=100, gap_m=0, validation_share=0.2, test_share=0.1, split_seed=seed)
    splits = split_by_blocks(corners, 10.0, options)
    assert [(splits == s).mean() for s in HELD_OUT] == pytest.approx([0.7, 0.2, 0.1])


def test_the_same_seed_gives_the_same_split(raster: Path) -> None:
    first, second = (cut(raster, split_seed=3)[0].frame["split"].tolist() for _ in range(2))
    assert first == second


def test_tiles_without_overlap_cover_each_pixel_at_most_once(raster: Path) -> None:
    index, empty = cut(raster)
    cover = np.zeros((20, 20), int)
    for w in index.windows():
        cover[w.row_off : w.row_off + w.height, w.col_off : w.col_off + w.width] += 1
    assert (cover == 1).all()
    assert (len(index), empty) == (25, 0)
    assert index.tile_size_m == 40


@settings(max_examples=20)
@given(overlap=st.sampled_from([0.0, 10.0, 20.0, 30.0]))
def test_overlapping_tiles_start_a_stride_apart_and_match_their_footprints(
    overlap: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write_raster(tmp_path_factory.mktemp("s") / "s.tif", np.ones((20, 20), np.uint16))
    index, _ = cut(path, overlap_m=overlap)
    starts = sorted({int(w.col_off) for w in index.windows()})
    assert set(np.diff(starts)) == {4 - overlap / 10}
    for w, box in zip(index.windows(), index.frame.geometry, strict=True):
        left, top = ORIGIN[0] + 10 * w.col_off, ORIGIN[1] - 10 * w.row_off
        assert box.bounds == pytest.approx((left, top - 40, left + 40, top))


def test_mostly_empty_tiles_are_left_out_and_the_share_is_recorded(tmp_path: Path) -> None:
    values = np.ones((8, 8), np.uint16)
    values[:4, :4] = 0
    values[4:, :4][:2] = 0
    path = write_raster(tmp_path / "s.tif", values, nodata=0)
    index, empty = cut(path)
    assert empty == 1
    assert index.frame["valid"].tolist() == [1.0, 0.5, 1.0]
    with pytest.raises(InputError, match="No tile has"):
        cut(write_raster(tmp_path / "empty.tif", np.zeros((8, 8), np.uint16), nodata=0))


def test_a_scene_smaller_than_a_tile_is_refused(raster: Path) -> None:
    with pytest.raises(InputError, match=r"smaller than one tile of 640 m. Choose at most 200 m"):
        cut(raster, tile_size_m=640.0)


def test_an_extent_smaller_than_a_tile_is_refused(raster: Path) -> None:
    xmin, ymax = ORIGIN
    with pytest.raises(InputError, match="no place for a tile") as raised:
        cut(raster, extent=(xmin + 40, ymax - 60, xmin + 60, ymax - 40))
    assert raised.value.parameter == "extent"


def test_other_layers_and_styles_in_the_file_stay(tmp_path: Path, raster: Path) -> None:
    index, _ = cut(raster)
    path = tmp_path / "t.gpkg"
    index.write(path)
    index.frame[["geometry"]].head(2).to_file(path, layer="a_sketch", driver="GPKG", engine="pyogrio")
    kept = scheme().subset(["Forest", "Water"])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as opened:  # as by QGIS
        opened.execute("PRAGMA journal_mode=WAL")
        opened.execute("CREATE TABLE layer_styles (f_table_name TEXT, styleName TEXT)")
        opened.execute("INSERT INTO layer_styles VALUES ('tiles', 'mine')")
        index.with_tags(kept, np.ones((len(index), 2), np.int8), 0.1).write(path)
    with contextlib.closing(sqlite3.connect(path)) as found:
        assert found.execute("SELECT * FROM layer_styles").fetchall() == [("tiles", "mine")]
        assert found.execute("PRAGMA journal_mode").fetchall() == [("delete",)]
    assert {"a_sketch", "tiles"} <= {name for name, _ in pyogrio.list_layers(path)}
    assert read_tile_index(path).scheme == kept and len(read_tile_index(path)) == len(index)
    assert len(geopandas.read_file(path, layer="a_sketch")) == 2
    assert len(read_layer(path, index.frame.crs, "layer")) == len(index)


def test_extent_and_centres_choose_the_tiles(raster: Path) -> None:
    xmin, ymax = ORIGIN
    index, _ = cut(raster, extent=(xmin + 40, ymax - 200, xmin + 200, ymax - 80))
    assert {(int(w.row_off), int(w.col_off)) for w in index.windows()} == {
        (r, c) for r in (8, 12, 16) for c in (4, 8, 12, 16)
    }
    index, _ = cut(raster, centres=np.array([[xmin + 60, ymax - 60], [xmin + 190, ymax - 30]]))
    assert [(w.row_off, w.col_off) for w in index.windows()] == [(1, 16), (4, 4)]
    with pytest.raises(InputError, match="None of the tagged polygons lies inside the scene"):
        cut(raster, centres=np.array([[0.0, 0.0]]))


def test_an_index_survives_writing_and_reading(tmp_path: Path, raster: Path) -> None:
    index, _ = cut(raster)
    kept = scheme().subset(["Forest", "Water"])
    tags = np.tile(np.array([[1, 0], [0, 1], [-1, 1], [-1, -1], [0, 0]], np.int8), (5, 1))
    tagged = index.with_tags(kept, tags, 0.1)
    tagged.write(tmp_path / "t.gpkg")
    back = read_tile_index(tmp_path / "t.gpkg")
    np.testing.assert_array_equal(back.tags(), tags)
    assert back.scheme == kept
    assert (back.scene, back.band_names, back.presence_threshold) == ([raster.resolve()], ["B02"], 0.1)
    assert back.windows() == index.windows()
    assert back.frame.crs == index.frame.crs
    assert back.tagged().sum() == (tags != UNKNOWN).any(axis=1).sum()
    assert len(back.in_split("train")) == (index.frame["split"] == "train").sum()


def test_new_tags_replace_the_older_ones(raster: Path) -> None:
    index, _ = cut(raster)
    ones = np.ones((25, 1), np.int8)
    tagged = index.with_tags(scheme().subset(["Forest"]), ones, 0.1).with_tags(scheme().subset(["Water"]), ones, 0.2)
    assert [c for c in tagged.frame.columns if c.startswith("has_")] == ["has_water"]
    assert tagged.presence_threshold == 0.2


def test_an_index_finds_its_rasters_after_its_folder_is_moved(tmp_path: Path) -> None:
    home = tmp_path / "here"
    path = write_raster(home / "s.tif", np.ones((8, 8), np.uint16))
    cut(path)[0].write(home / "t.gpkg")
    shutil.move(home, tmp_path / "there")
    assert read_tile_index(tmp_path / "there" / "t.gpkg").scene == [(tmp_path / "there" / "s.tif").resolve()]


def test_other_files_are_no_tile_index(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_tile_index(tmp_path / "none.gpkg")
    (tmp_path / "text.gpkg").write_text("no")
    other = write_layer(tmp_path / "other.gpkg", [shapely.box(0, 0, 1, 1)])
    for path in (tmp_path / "text.gpkg", other, SAMPLE / "virginia" / "tags.gpkg"):
        with pytest.raises(InputError, match="is not a tile index"):
            read_tile_index(path)


def test_an_untagged_index_says_so(raster: Path) -> None:
    with pytest.raises(InputError, match="has no tags"):
        cut(raster)[0].tags()


def test_groups_open_a_scene_once_and_each_patch_alone(raster: Path) -> None:
    index, _ = cut(raster)
    assert [(p, len(i)) for p, i in groups(index)] == [([raster.resolve()], 25)]


def test_cutting_stops_when_the_user_cancels(raster: Path) -> None:
    with open_scene([raster]) as scene, pytest.raises(CancelledError):
        cut_scene(scene, TilingSettings(tile_size_m=40), CallbackReporter(lambda *_: None, lambda: True))


# --- the index and the scene belong together --------------------------------------------------------------------------


def test_tiles_are_found_again_in_their_own_scene_and_in_another_crs(raster: Path) -> None:
    index, _ = cut(raster)
    with open_scene([raster]) as scene:
        check_place(index, scene.grid, raster)
        lonlat = replace(index, frame=index.frame.to_crs("EPSG:4326"))
        check_place(lonlat, scene.grid, raster)


@pytest.mark.parametrize("shift", [(15.0, 0.0), (0.0, -20.0), (1e6, 0.0)])
def test_an_index_of_another_scene_is_refused(raster: Path, tmp_path: Path, shift: tuple[float, float]) -> None:
    index, _ = cut(raster)
    origin = (ORIGIN[0] + shift[0], ORIGIN[1] + shift[1])
    other = write_raster(tmp_path / "other.tif", np.ones((20, 20), np.uint16), names=["B02"], origin=origin)
    with open_scene([other]) as scene, pytest.raises(InputError, match=r"not cut from .*other\.tif: tile"):
        check_place(index, scene.grid, other)


def test_an_index_of_a_larger_scene_is_refused(raster: Path, tmp_path: Path) -> None:
    index, _ = cut(raster)
    part = write_raster(tmp_path / "part.tif", np.ones((20, 17), np.uint16), names=["B02"])
    with open_scene([part]) as scene, pytest.raises(InputError, match="lies elsewhere"):
        check_place(index, scene.grid, part)


def test_a_polygon_drawn_into_the_index_by_hand_is_named(raster: Path, tmp_path: Path) -> None:
    index, _ = cut(raster)
    frame = index.frame.copy()
    for column in ("row", "col", "height", "width"):
        frame[column] = frame[column].astype("Int64")
    frame.loc[len(frame)] = {"geometry": frame.geometry[0]}
    replace(index, frame=frame).write(tmp_path / "tiles.gpkg")
    with pytest.raises(InputError, match=r"1 feature.* no tiles"):
        read_tile_index(tmp_path / "tiles.gpkg")


def test_fields_that_were_deleted_are_named(raster: Path, tmp_path: Path) -> None:
    index, _ = cut(raster)
    two = scheme().subset(["Forest", "Water"])
    tagged = index.with_tags(two, np.ones((25, 2), np.int8), 0.1)
    without = replace(tagged, frame=tagged.frame.drop(columns="has_water"))
    without.write(tmp_path / "tiles.gpkg")
    with pytest.raises(InputError, match=r"lacks the field\(s\) has_water\..* 'tag'"):
        read_tile_index(tmp_path / "tiles.gpkg").tags()
    replace(index, frame=index.frame.drop(columns=["row", "split"])).write(tmp_path / "tiles.gpkg")
    with pytest.raises(InputError, match=r"lacks the field\(s\) row, split\..* 'tiles'"):
        read_tile_index(tmp_path / "tiles.gpkg")
