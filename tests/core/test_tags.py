"""Image-level labels from text, boolean fields, polygons, points and rasters."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window
from small_rasters import ORIGIN, RESOURCES, SAMPLE, scheme, write_layer, write_raster

from sparsevit.errors import InputError
from sparsevit.geodata.categorical import translate
from sparsevit.geodata.legend import ClassScheme
from sparsevit.geodata.tile_index import PRESENT, UNKNOWN, read_tile_index
from sparsevit.jobs import tag, tiles
from sparsevit.labels.allowed import AllowedClasses
from sparsevit.labels.cooccurrence import choose_classes, contrast_warnings, cooccurrence, table_text
from sparsevit.labels.fields import match_polygons, split_labels, text_tags
from sparsevit.labels.mapping import code_table, known_labels, load_mapping, resolve
from sparsevit.labels.raster import raster_tags
from sparsevit.labels.vectors import point_tags, polygon_tags
from sparsevit.reporting import Reporter

DFC = RESOURCES / "schemes" / "dfc2020.json"
SIDE = 80.0
"""Tiles of 8 × 8 pixels, 10 m."""


def box(col: float, row: float, width: float = SIDE, height: float = SIDE) -> shapely.Polygon:
    """A box whose top-left corner lies `col`, `row` metres from the raster's."""
    left, top = ORIGIN[0] + col, ORIGIN[1] - row
    return shapely.box(left, top - height, left + width, top)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Four tiles in a row."""
    raster = write_raster(tmp_path / "scene.tif", np.ones((8, 32), np.uint16), names=["B02"])
    run(tiles, scene=[raster], tile_size_m=SIDE, block_size_m=SIDE, gap_m=0, output=tmp_path / "tiles.gpkg")
    return tmp_path / "tiles.gpkg"


def run(job: Any, **params: Any) -> Any:
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in params.items()}
    plain = {k: [str(p) for p in v] if k == "scene" else v for k, v in plain.items()}
    return job.JOB.run(job.JOB.parse(plain), Reporter())


def tagged(index: Path, **params: Any) -> dict[str, list[int]]:
    run(tag, tiles=index, scheme=DFC, **params)
    result = read_tile_index(index)
    assert result.scheme is not None
    return {n: result.tags()[:, j].tolist() for j, n in enumerate(result.scheme.names)}


# --- mapping -------------------------------------------------------------------------------------------------------


def test_dfc2020_codes_become_the_published_training_ids() -> None:
    """10 classes to 8: Savanna, Snow/Ice and 0 are ignored; the others count up."""
    eight = scheme().subset(
        ["Forest", "Shrubland", "Grassland", "Wetlands", "Croplands", "Urban/Built-up", "Barren", "Water"]
    )
    ids = translate(np.arange(11, dtype=np.int32), code_table(None, eight), 255)
    assert ids.tolist() == [255, 0, 1, 255, 2, 3, 4, 5, 255, 6, 7]


def test_igbp_becomes_dfc2020_as_published() -> None:
    dfc = scheme()
    table = code_table(load_mapping(RESOURCES / "schemes" / "igbp_to_dfc2020.json", dfc), dfc)
    found = translate(np.arange(18, dtype=np.int32), table, -1)
    codes = [0 if p < 0 else dfc.codes[p] for p in found]
    assert codes == [0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 6, 8, 9, 10]


@given(st.lists(st.integers(-1000, 70000), max_size=50), st.dictionaries(st.integers(-9, 300), st.integers(0, 20)))
def test_translating_equals_a_dictionary(values: list[int], table: dict[int, int]) -> None:
    assert translate(np.array(values, np.int32), table, -1).tolist() == [table.get(v, -1) for v in values]


def test_a_mapping_may_be_json_or_csv_and_drops_nothing_unasked(tmp_path: Path) -> None:
    expected = {"woodland": 1, "sea, shallow": 10, "cloud": None, "11": 5}
    (tmp_path / "m.json").write_text(json.dumps({"Woodland": "Forest", "Sea, shallow": 10, "Cloud": None, "11": "5"}))
    (tmp_path / "m.csv").write_text('value,class\nWoodland,forest\n"Sea, shallow",10\nCloud,\n11,Wetlands\n')
    (tmp_path / "n.csv").write_text("Woodland;1\nSea, shallow;Water\nCloud;255\n11;5\n")
    for name in ("m.json", "m.csv", "n.csv"):
        assert load_mapping(tmp_path / name, scheme()) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not a mapping"),
        ("[]", "is not a mapping"),
        ('{"a": "lava"}', "no class of 'DFC2020'"),
        ("{}", "empty"),
    ],
)
def test_a_wrong_mapping_names_its_file(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(InputError, match=rf"m\.json.*{words}"):
        load_mapping(tmp_path / "m.json", scheme())
    with pytest.raises(InputError, match="does not exist"):
        load_mapping(tmp_path / "none.json", scheme())


def test_a_number_outside_the_mapping_does_not_fall_back_to_the_schemes_codes() -> None:
    """ESA WorldCover's 10 is tree cover, not the scheme's Water."""
    mapping = load_mapping({"20": "Shrubland"}, scheme())
    assert resolve("Water", scheme(), mapping, "x") == 10
    with pytest.raises(InputError, match="'10'"):
        resolve("10", scheme(), mapping, "x")


# --- text and fields -----------------------------------------------------------------------------------------------


def test_text_is_parsed_with_any_separator_and_case() -> None:
    two = scheme().subset(["Forest", "Water"])
    texts = ["forest, WATER", "Forest;Water", " forest | ", "10", "", None, "Water,Water"]
    tags = text_tags(texts, two, None, True, "x")
    assert tags.tolist() == [[1, 1], [1, 1], [1, 0], [0, 1], [-1, -1], [-1, -1], [0, 1]]
    assert text_tags(["forest"], two, None, False, "x").tolist() == [[1, -1]]


def test_names_with_commas_survive_a_bar() -> None:
    mapping = load_mapping(RESOURCES / "schemes" / "corine_to_level1.json", scheme("corine_level1"))
    known = known_labels(scheme("corine_level1"), mapping)
    long = "Land principally occupied by agriculture, with significant areas of natural vegetation"
    assert split_labels(f"Pastures | {long}", known) == ["Pastures ", f" {long}"]
    assert split_labels(long, known) == [long]
    tags = text_tags([f"{long} | Water bodies"], scheme("corine_level1"), mapping, True, "x")
    assert tags.tolist() == [[0, 1, 0, 0, 1]]


@settings(max_examples=50)
@given(st.lists(st.sampled_from(scheme().names), min_size=1, unique=True), st.sampled_from([", ", ";", " | "]))
def test_any_list_of_classes_is_read_back(names: list[str], separator: str) -> None:
    tags = text_tags([separator.join(names)], scheme(), None, True, "x")
    assert {scheme().names[j] for j in np.flatnonzero(tags[0])} == set(names)


def test_an_unknown_class_is_named_with_file_and_field(index: Path, tmp_path: Path) -> None:
    layer = write_layer(tmp_path / "l.gpkg", [box(0, 0)], classes=["forest, lava"])
    with pytest.raises(InputError, match=r"l\.gpkg, field 'classes', has the class 'lava'"):
        tagged(index, source="text", layer=layer, field="classes")
    with pytest.raises(InputError, match=r"has no field 'tags'. It has the fields classes"):
        tagged(index, source="text", layer=layer, field="tags")


def test_a_tile_takes_the_tags_of_the_polygon_that_coincides_with_it(index: Path, tmp_path: Path) -> None:
    shapes = [box(0, 0), box(70, 0), box(100, 0), box(160, 0, 160)]
    texts = ["forest", "water", "barren", "grassland"]
    layer = write_layer(tmp_path / "l.gpkg", shapes, classes=texts)
    tags = tagged(index, source="text", layer=layer, field="CLASSES")
    # Tile 2 overlaps 'water' (IoU 7/9) more than 'barren' (3/5); a polygon of two tiles has an IoU of exactly 0.5.
    assert tags == {
        "Forest": [1, 0, 0, 0],
        "Grassland": [0, 0, 1, 1],
        "Water": [0, 1, 0, 0],
    }


@settings(max_examples=40)
@given(st.lists(st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(5, 60)] * 2), min_size=1, max_size=8))
def test_matching_equals_brute_force(boxes: list[tuple[int, int, int, int]]) -> None:
    layer = geopandas.GeoDataFrame(geometry=[shapely.box(x, y, x + w, y + h) for x, y, w, h in boxes])
    tiles_frame = geopandas.GeoDataFrame(geometry=[shapely.box(x, y, x + 30, y + 30) for x in (0, 30) for y in (0, 30)])
    found = match_polygons(tiles_frame, layer)
    for i, tile in enumerate(tiles_frame.geometry):
        iou = [tile.intersection(p).area / tile.union(p).area for p in layer.geometry]
        if max(iou) < 0.5 - 1e-9:
            assert found[i] == -1
        else:
            assert iou[found[i]] == pytest.approx(max(iou))


def test_a_layer_in_another_crs_is_reprojected(index: Path, tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame({"classes": ["forest", "water"]}, geometry=[box(0, 0), box(80, 0)], crs="EPSG:32618")
    frame.to_crs("EPSG:4326").to_file(tmp_path / "d.gpkg")
    assert tagged(index, source="text", layer=tmp_path / "d.gpkg", field="classes") == {
        "Forest": [1, 0, -1, -1],
        "Water": [0, 1, -1, -1],
    }


def test_polygons_of_another_size_tag_nothing_and_the_error_says_why(index: Path, tmp_path: Path) -> None:
    layer = write_layer(tmp_path / "l.gpkg", [box(0, 0, 40, 40)], classes=["forest"])
    with pytest.raises(InputError, match=r"tags no tile.*sides are about 40, those of the tiles 80"):
        tagged(index, source="text", layer=layer, field="classes")


def test_texts_may_be_codes_even_whole_numbers(index: Path, tmp_path: Path) -> None:
    for name, values in (("i", [1, 10]), ("f", [1.0, np.nan]), ("t", ["1", "10, 1"])):
        layer = write_layer(tmp_path / f"{name}.gpkg", [box(0, 0), box(80, 0)], code=values)
        water = {"i": 1, "f": -1, "t": 1}[name]
        tags = tagged(index, source="text", layer=layer, field="code")
        assert tags["Forest"][:2] == [1, {"i": 0, "f": -1, "t": 1}[name]]
        assert tags.get("Water", [0, -1])[:2] == [0, water]


def test_lists_are_texts(index: Path, tmp_path: Path) -> None:
    """As GeoJSON has them."""
    geometry = box(0, 0)
    feature = {"type": "Feature", "geometry": shapely.geometry.mapping(geometry)}
    features = [feature | {"properties": {"classes": ["Forest", "Water"]}}]
    features.append(
        {"type": "Feature", "geometry": shapely.geometry.mapping(box(80, 0)), "properties": {"classes": None}}
    )
    path = tmp_path / "l.geojson"
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32618"}}
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    tags = tagged(index, source="text", layer=path, field="classes")
    assert (tags["Forest"][:2], tags["Water"][:2]) == ([1, -1], [1, -1])


def test_boolean_fields_may_be_named_in_any_script(index: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("code,name,color\n3,Лес,#00ff00\n7,Вода,#0000ff\n", "utf-8")
    layer = write_layer(
        tmp_path / "l.gpkg", [box(0, 0), box(80, 0)], **{"Вода": [1, 0], "лес": [0, 1], "Город": [1, 1]}
    )
    run(tag, tiles=index, scheme=path, source="fields", layer=layer)
    assert read_tile_index(index).tags()[:2].tolist() == [[0, 1], [1, 0]]
    run(tag, tiles=index, scheme=path, source="fields", output=tmp_path / "again.gpkg")  # from the index's own fields
    assert read_tile_index(tmp_path / "again.gpkg").tags()[:2].tolist() == [[0, 1], [1, 0]]


def test_boolean_fields_keep_the_unknown(index: Path, tmp_path: Path) -> None:
    shapes = [box(0, 0), box(80, 0), box(160, 0)]
    layer = write_layer(
        tmp_path / "l.gpkg", shapes, has_forest=[True, False, None], Water=[1, 0, 1], other=["a", "b", "c"]
    )
    assert tagged(index, source="fields", layer=layer) == {"Forest": [1, 0, -1, -1], "Water": [1, 0, 1, -1]}
    bad = write_layer(tmp_path / "b.gpkg", shapes[:1], Forest=["perhaps"])
    with pytest.raises(InputError, match=r"field 'Forest' has the value 'perhaps'"):
        tagged(index, source="fields", layer=bad)
    none = write_layer(tmp_path / "n.gpkg", shapes[:1], lava=[1])
    with pytest.raises(InputError, match="no field named after a class"):
        tagged(index, source="fields", layer=none)


@pytest.mark.parametrize("tag", [-1, 0])
def test_tiles_without_tags_and_those_that_exclude_all_allow_every_class(index: Path, tag: int) -> None:
    """Every class may cover less of a tile than the presence threshold."""
    found, classes = read_tile_index(index), scheme()
    unknown = found.with_tags(classes, np.full((len(found), len(classes.codes)), tag, np.int8), 0.1)
    allowed, window = AllowedClasses(unknown, classes), Window(0, 0, 8, 8)
    assert allowed(window).shape == (len(classes.codes), 8, 8) and allowed(window).all()
    assert (allowed.known(window) == -1).all() and (AllowedClasses(None, classes).known(window) == -1).all()


def test_what_tags_know_of_a_window_is_in_the_order_of_the_classes_asked_for(index: Path) -> None:
    """Forest is tagged, water unknown, all else absent; a window that leaves the tile knows nothing."""
    found, classes = read_tile_index(index), scheme()
    tags = np.zeros((len(found), len(classes.codes)), np.int8)
    forest, water = classes.names.index("Forest"), classes.names.index("Water")
    tags[:, forest], tags[:, water] = 1, -1
    tags[1:] = -1
    tagged_index = found.with_tags(classes, tags, 0.1)
    turned = ClassScheme("turned", classes.classes[::-1])
    tile = tagged_index.windows()[0]
    for order in (classes, turned):
        allowed = AllowedClasses(tagged_index, order)
        expected = {"Forest": 1, "Water": -1}
        assert allowed.known(tile).tolist() == [expected.get(name, 0) for name in order.names]
        assert allowed(tile).any(axis=(1, 2)).tolist() == [name in expected for name in order.names]
        wider = Window(tile.col_off, tile.row_off, tile.width + 1, tile.height)
        assert (allowed.known(wider) == -1).all()


def test_tags_edited_in_the_index_are_read_back(index: Path, tmp_path: Path) -> None:
    layer = write_layer(tmp_path / "l.gpkg", [box(0, 0), box(80, 0)], classes=["forest", "water"])
    before = tagged(index, source="text", layer=layer, field="classes")
    edited = read_tile_index(index)
    edited.frame.loc[3, "has_water"] = 1
    edited.write(index)
    after = tagged(index, source="fields")
    assert after["Water"] == [*before["Water"][:3], 1]
    assert after["Forest"] == before["Forest"]


# --- polygons and points -------------------------------------------------------------------------------------------

TILE = geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 10, 10)])


def areas(*shares: float) -> geopandas.GeoDataFrame:
    """Horizontal strips of the tile, one after the other."""
    tops = np.cumsum([0, *shares]) * 10
    return geopandas.GeoDataFrame(geometry=[shapely.box(-5, a, 15, b) for a, b in pairwise(tops)])


@pytest.mark.parametrize(
    ("shares", "complete", "expected"),
    [
        ((0.1, 0.9), True, [1, 1, 0]),  # the threshold itself counts as present
        ((0.09, 0.91), True, [0, 1, 0]),
        ((0.05,), True, [-1, -1, -1]),  # nothing reaches the threshold: nothing is listed
        ((0.3,), True, [1, 0, 0]),
        ((0.3,), False, [1, -1, -1]),  # 70 % are unknown ground
        ((0.02, 0.93), False, [0, 1, 0]),  # 5 % uncovered + 2 % < 10 %
        ((0.05, 0.89), False, [-1, 1, 0]),  # 6 % uncovered + 5 % might reach it
        ((0.05, 0.85), False, [-1, 1, -1]),
    ],
)
def test_polygon_tags_follow_the_area(shares: tuple[float, ...], complete: bool, expected: list[int]) -> None:
    layer = areas(*shares)
    assert polygon_tags(TILE, layer, np.arange(len(layer)), 3, 0.1, complete).tolist() == [expected]


def test_overlapping_polygons_of_a_class_count_once_and_dropped_ones_cover_nothing() -> None:
    layer = geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 10, 0.6)] * 2 + [shapely.box(0, 2, 10, 10)])
    assert polygon_tags(TILE, layer, np.array([0, 0, 1]), 2, 0.1, False).tolist() == [[-1, 1]]
    assert polygon_tags(TILE, layer, np.array([0, 0, -1]), 2, 0.05, False).tolist() == [[1, -1]]


def test_points_tag_the_tiles_they_lie_in() -> None:
    two = geopandas.GeoDataFrame(
        geometry=[shapely.box(0, 0, 10, 10), shapely.box(10, 0, 20, 10), shapely.box(20, 0, 30, 10)]
    )
    layer = geopandas.GeoDataFrame(geometry=[shapely.Point(5, 5), shapely.Point(6, 6), shapely.Point(15, 5)])
    classes = np.array([0, 1, -1])
    assert point_tags(two, layer, classes, 3, True).tolist() == [[1, 1, 0], [-1] * 3, [-1] * 3]
    assert point_tags(two, layer, classes, 3, False).tolist() == [[1, 1, -1], [-1] * 3, [-1] * 3]


def test_the_job_reads_polygons_and_points(index: Path, tmp_path: Path) -> None:
    shapes = [box(0, 0, 80), box(80, 0, 20), box(100, 0, 60)]
    polygons = write_layer(tmp_path / "p.gpkg", shapes, cover=["Woods", "10", None])
    result = tagged(index, source="vector", layer=polygons, field="cover", mapping={"woods": "Forest", "10": 10})
    assert result == {"Forest": [1, 0, -1, -1], "Water": [0, 1, -1, -1]}
    points = write_layer(tmp_path / "q.gpkg", [s.centroid for s in shapes], code=[1, 10, 1])
    assert tagged(index, source="vector", layer=points, field="code") == {
        "Forest": [1, 1, -1, -1],
        "Water": [0, 1, -1, -1],
    }
    mixed = write_layer(tmp_path / "m.gpkg", [shapes[0], shapes[1].centroid], code=[1, 1])
    with pytest.raises(InputError, match="mixes points and polygons"):
        tagged(index, source="vector", layer=mixed, field="code")
    lines = write_layer(tmp_path / "l.gpkg", [shapes[0].boundary], code=[1])
    with pytest.raises(InputError, match="geometries of type LineString"):
        tagged(index, source="vector", layer=lines, field="code")


# --- rasters -------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.integers(1, 99), st.integers(0, 100))
def test_a_class_is_present_from_the_threshold_on(threshold: int, pixels: int) -> None:
    tags = raster_tags(np.array([[pixels, 100 - pixels]]), np.array([100]), threshold / 100, 0.5)
    assert tags[0, 0] == int(pixels >= threshold)


def test_shares_are_of_labelled_pixels_and_mostly_unlabelled_tiles_stay_unknown() -> None:
    counts = np.array([[5, 45], [4, 45], [0, 0], [49, 0]])
    tags = raster_tags(counts, np.full(4, 100), 0.1, 0.49)
    assert tags.tolist() == [[1, 1], [0, 1], [-1, -1], [1, 0]]
    assert raster_tags(counts, np.full(4, 100), 0.1, 0.5)[3].tolist() == [-1, -1]


def test_a_raster_is_counted_like_pixels_by_hand(index: Path, tmp_path: Path) -> None:
    codes = (
        np.random.default_rng(0)
        .choice([1, 2, 10, 3, 99, 255], (8, 32), p=[0.4, 0.1, 0.2, 0.1, 0.1, 0.1])
        .astype(np.uint8)
    )
    raster = write_raster(tmp_path / "labels.tif", codes, nodata=255)
    result = run(tag, tiles=index, scheme=DFC, source="raster", raster=raster)
    tags = read_tile_index(index).tags()
    for t in range(4):
        block = codes[:, 8 * t : 8 * t + 8]
        valid = block[(block != 255) & (block != 99)]
        expected = [int((valid == scheme().find(n).code).mean() >= 0.1) for n in result.classes]
        assert tags[t].tolist() == expected
    assert any("values 99" in w for w in result.warnings)


def test_a_coarse_raster_in_another_crs_tags_the_tiles(index: Path, tmp_path: Path) -> None:
    frame = geopandas.GeoSeries([box(0, 0, 320, 80)], crs="EPSG:32618").to_crs("EPSG:4326")
    xmin, _, xmax, ymax = frame.total_bounds
    gsd = (xmax - xmin) / 2
    coarse = write_raster(
        tmp_path / "c.tif", np.array([[12, 17]], np.uint8), gsd=gsd, origin=(xmin, ymax + gsd / 2), crs="EPSG:4326"
    )
    mapping = RESOURCES / "schemes" / "igbp_to_dfc2020.json"
    tags = tagged(index, source="raster", raster=coarse, mapping=mapping)
    assert tags == {"Croplands": [1, 1, 0, 0], "Water": [0, 0, 1, 1]}


def test_float_rasters_with_nan_and_without_nodata_are_read(index: Path, tmp_path: Path) -> None:
    codes = np.ones((8, 32), np.float32)
    codes[:, 8:16] = np.nan
    raster = write_raster(tmp_path / "f.tif", codes)
    assert tagged(index, source="raster", raster=raster)["Forest"] == [1, -1, 1, 1]


def test_rasters_that_cannot_tag_are_refused(index: Path, tmp_path: Path) -> None:
    ones = np.ones((8, 32), np.uint8)
    with pytest.raises(InputError, match="No raster with the tags was given"):
        tagged(index, source="raster")
    with pytest.raises(InputError, match="no coordinate reference system"):
        tagged(index, source="raster", raster=write_raster(tmp_path / "n.tif", ones, crs=None))
    with pytest.raises(InputError, match="does not overlap"):
        tagged(index, source="raster", raster=write_raster(tmp_path / "f.tif", ones, origin=(0.0, 0.0)))
    with pytest.raises(InputError, match="tags no tile"):
        tagged(index, source="raster", raster=write_raster(tmp_path / "z.tif", ones * 99))


# --- what the tags can teach ---------------------------------------------------------------------------------------


def three() -> ClassScheme:
    return scheme().subset(["Forest", "Grassland", "Water"])


def test_the_cooccurrence_table_counts_tiles() -> None:
    tags = np.array([[1, 1, 0], [1, 0, -1], [0, 0, 1]], np.int8)
    assert cooccurrence(tags).tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    lines = table_text(tags, three()).splitlines()
    assert lines[1].split() == ["1", "Forest", "2", "1", "0", "0"]
    assert lines[3].split() == ["3", "Water", "0", "0", "1", "1"]


def test_tags_without_contrast_are_pointed_out() -> None:
    tags = np.tile(np.array([[1, 1, 0], [1, 1, 0], [1, 0, 1]], np.int8), (5, 1))
    texts = contrast_warnings(tags, three())
    assert texts[0].startswith("Forest is present in every tile")
    assert len(texts) == 1
    tags = np.tile(np.array([[1, 1, 0], [0, 0, 1]], np.int8), (5, 1))
    (text,) = contrast_warnings(tags, three())
    assert text.startswith("Forest and Grassland always occur together: the tags cannot tell them apart. Tag")
    tags[0, 0] = UNKNOWN  # tells nothing against it
    assert contrast_warnings(tags, three())[-1] == text
    tags[1, 1] = PRESENT
    assert not any("always occur together" in line for line in contrast_warnings(tags, three()))


def test_classes_are_those_asked_for_or_those_that_occur() -> None:
    tags = np.array([[1, 0, 0], [0, 0, 1]], np.int8)
    assert choose_classes(tags, three(), [])[0].names == ["Forest", "Water"]
    kept, columns = choose_classes(tags, three(), ["water"])
    assert (kept.names, columns.tolist()) == (["Water"], [[0], [1]])
    with pytest.raises(InputError, match="Grassland is not present in any tagged tile"):
        choose_classes(tags, three(), ["Forest", "Grassland"])
    with pytest.raises(InputError, match="No class is present"):
        choose_classes(np.zeros((2, 3), np.int8), three(), [])
    with pytest.raises(InputError, match="No tile was tagged"):
        choose_classes(np.full((2, 3), -1, np.int8), three(), [])


# --- the jobs ------------------------------------------------------------------------------------------------------


def test_the_sample_is_tagged_from_its_polygons(tmp_path: Path) -> None:
    place = SAMPLE / "virginia"
    run(tiles, scene=[place / "s2_10m.tif"], footprints=place / "tags.gpkg", output=tmp_path / "t.gpkg")
    result = run(tag, tiles=tmp_path / "t.gpkg", scheme=DFC, source="text", layer=place / "tags.gpkg", field="classes")
    assert (result.tiles, result.tagged, len(result.classes)) == (150, 150, 8)
    assert min(result.present.values()) >= 3


@pytest.mark.parametrize(("told", "typed", "covered"), [(None, None, 0.1), (0.3, 0.3, 0.3)])
def test_from_which_share_people_tag_is_unknown_unless_told(
    index: Path, tmp_path: Path, told: float | None, typed: float | None, covered: float
) -> None:
    shapes = [box(col, 0) for col in (0, SIDE)]
    polygons = write_layer(tmp_path / "p.gpkg", shapes, code=[1, 10], tags=["Forest", "Water"])
    points = write_layer(tmp_path / "q.gpkg", [s.centroid for s in shapes], code=[1, 10])
    for source, layer, field, expected in (
        ("text", polygons, "tags", typed),
        ("vector", points, "code", typed),
        ("vector", polygons, "code", covered),
    ):
        tagged(index, source=source, layer=layer, field=field, presence_threshold=told)
        assert read_tile_index(index).presence_threshold == expected


def test_tags_of_the_radar_sample_follow_from_its_reference(tmp_path: Path) -> None:
    place = SAMPLE / "terramesh"
    options = {"scene": [place / "s2.tif", place / "s1.tif"], "tile_size_m": 320.0}
    run(tiles, **options, footprints=place / "tags.gpkg", output=tmp_path / "t.gpkg")
    by_text = tagged(tmp_path / "t.gpkg", source="text", layer=place / "tags.gpkg", field="classes")
    by_raster = tagged(tmp_path / "t.gpkg", source="raster", raster=place / "reference.tif")
    assert by_text == by_raster
    assert read_tile_index(tmp_path / "t.gpkg").band_names[-2:] == ["VV", "VH"]


def test_a_refused_request_leaves_the_index_as_it_was(index: Path, tmp_path: Path) -> None:
    before = index.read_bytes()
    far = write_layer(tmp_path / "far.gpkg", [shapely.box(0, 0, 1, 1)], classes=["forest"])
    with pytest.raises(InputError, match=r"far\.gpkg does not overlap the scene"):
        tagged(index, source="text", layer=far, field="classes")
    nowhere = write_layer(tmp_path / "nocrs.gpkg", [box(0, 0)], crs=None, classes=["forest"])
    with pytest.raises(InputError, match="no coordinate reference system"):
        tagged(index, source="text", layer=nowhere, field="classes")
    with pytest.raises(InputError, match="does not exist"):
        tagged(index, source="text", layer=tmp_path / "none.gpkg", field="classes")
    with pytest.raises(InputError, match="not a readable vector layer"):
        (tmp_path / "bad.gpkg").write_text("no")
        tagged(index, source="text", layer=tmp_path / "bad.gpkg", field="classes")
    with pytest.raises(InputError, match="No vector layer"):
        tagged(index, source="vector")
    assert index.read_bytes() == before


def test_a_layer_of_a_geopackage_is_chosen_by_name(index: Path, tmp_path: Path) -> None:
    path = tmp_path / "two.gpkg"
    for name, text in (("first", "forest"), ("second", "water")):
        geopandas.GeoDataFrame({"c": [text]}, geometry=[box(0, 0)], crs="EPSG:32618").to_file(path, layer=name)
    result = tagged(index, source="text", layer=f"{path}|layername=second", field="c")
    assert list(result) == ["Water"]


def test_tiles_refuses_an_output_that_is_no_geopackage(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not end in \.gpkg"):
        run(tiles, scene=[SAMPLE / "virginia" / "s2_10m.tif"], output=tmp_path / "t.shp")
    with pytest.raises(InputError, match="needs a folder of patches"):
        run(tiles, layout="dfc2020", output=tmp_path / "t.gpkg")
