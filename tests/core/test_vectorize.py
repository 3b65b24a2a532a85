"""Class raster to polygons: nothing is lost, nothing overlaps, and small regions join their neighbours."""

from __future__ import annotations

import json
import sqlite3
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.transform import Affine, from_origin
from scipy import ndimage
from small_rasters import ORIGIN, RESOURCES, SAMPLE, scheme, write_raster

from sparsevit.errors import CancelledError, InputError
from sparsevit.geodata.class_layer import LAYER
from sparsevit.geodata.polygons import areas_m2, outline, row_areas_m2, simplify
from sparsevit.geodata.regions import Regions, areas_of, find_regions, means_of, merge_small
from sparsevit.geodata.scene import Grid
from sparsevit.geodata.writer import class_raster
from sparsevit.jobs import get_job
from sparsevit.reporting import Reporter

NODATA = 255
DFC = RESOURCES / "schemes" / "dfc2020.json"
CONNECTIVITY = pytest.mark.parametrize("connectivity", [4, 8])

maps = arrays(
    np.uint8,
    array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.sampled_from([1, 2, 6, NODATA]),
)
speckled = maps.filter(lambda classes: bool((classes != NODATA).any()))


def grid_of(classes: np.ndarray, crs: str = "EPSG:32618", gsd: float = 10.0) -> Grid:
    height, width = classes.shape
    return Grid(CRS.from_string(crs), from_origin(*ORIGIN, gsd, gsd), width, height)


def polygons_of(classes: np.ndarray, connectivity: int) -> tuple[Regions, np.ndarray, Grid]:
    regions, grid = find_regions(classes, connectivity), grid_of(classes)
    return regions, outline(regions, grid.transform, connectivity == 8, Reporter()), grid


def merged(classes: np.ndarray, minimum_pixels: float, connectivity: int) -> np.ndarray:
    return merge_small(classes, np.ones(len(classes)), minimum_pixels, connectivity, Reporter())


def structure(connectivity: int) -> np.ndarray:
    return ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2)


def sizes_of(classes: np.ndarray, connectivity: int) -> np.ndarray:
    regions = find_regions(classes, connectivity)
    return areas_of(regions, np.ones(len(classes)))


# --- regions --------------------------------------------------------------------------------------------------------


@CONNECTIVITY
@given(maps)
def test_regions_are_connected_pixels_of_one_class(connectivity: int, classes: np.ndarray) -> None:
    regions = find_regions(classes, connectivity)
    expected = sum(ndimage.label(classes == c, structure(connectivity))[1] for c in (1, 2, 6))
    assert len(regions) == expected
    np.testing.assert_array_equal(np.append(NODATA, regions.codes)[regions.labels], classes)
    for number in range(1, len(regions) + 1):
        assert ndimage.label(regions.labels == number, structure(connectivity))[1] == 1


@CONNECTIVITY
@given(maps, st.integers(0, 30))
def test_no_region_is_below_the_minimum_unless_nodata_isolates_it(
    connectivity: int, classes: np.ndarray, minimum: int
) -> None:
    result = merged(classes, minimum, connectivity)
    np.testing.assert_array_equal(result == NODATA, classes == NODATA)
    regions, patches = find_regions(result, connectivity), ndimage.label(result != NODATA, structure(connectivity))[0]
    for number, size in enumerate(sizes_of(result, connectivity), start=1):
        here = regions.labels == number
        if size < minimum:
            patch = patches == patches[here][0]
            np.testing.assert_array_equal(here, patch)
            assert patch.sum() < minimum


@CONNECTIVITY
@given(maps, st.integers(2, 30))
def test_large_regions_never_shrink(connectivity: int, classes: np.ndarray, minimum: int) -> None:
    result = merged(classes, minimum, connectivity)
    before = find_regions(classes, connectivity)
    large = np.append(False, areas_of(before, np.ones(len(classes))) >= minimum)[before.labels]
    np.testing.assert_array_equal(result[large], classes[large])


@CONNECTIVITY
@given(maps)
def test_a_minimum_of_one_pixel_changes_nothing(connectivity: int, classes: np.ndarray) -> None:
    np.testing.assert_array_equal(merged(classes, 1, connectivity), classes)


def test_a_small_region_joins_its_largest_neighbour() -> None:
    classes = np.array([[1, 1, 1, 6, 2, 2], [1, 1, 1, 2, 2, 2]], np.uint8)
    expected = np.array([[1, 1, 1, 1, 2, 2], [1, 1, 1, 2, 2, 2]], np.uint8)
    np.testing.assert_array_equal(merged(classes, 2, 4), expected)


def test_small_regions_among_themselves_grow_together_until_they_are_large_enough() -> None:
    """GDAL's sieve leaves a chessboard as it is: no field has a large neighbour."""
    chessboard = (np.indices((8, 8)).sum(axis=0) % 2 + 1).astype(np.uint8)
    assert sizes_of(merged(chessboard, 5, 4), 4).min() >= 5


def test_a_minimum_larger_than_the_map_leaves_one_region() -> None:
    classes = np.array([[1, 1, 2], [6, 6, 6]], np.uint8)
    np.testing.assert_array_equal(merged(classes, 1e9, 4), np.full((2, 3), 6))


@CONNECTIVITY
@given(speckled, st.randoms(use_true_random=False))
def test_mean_confidence_equals_brute_force(connectivity: int, classes: np.ndarray, random: Any) -> None:
    regions = find_regions(classes, connectivity)
    confidence = np.random.default_rng(random.randrange(2**32)).random(classes.shape)
    confidence[confidence < 0.2] = np.nan
    means = means_of(regions, lambda top, bottom: confidence[top:bottom], Reporter())
    for number, mean in enumerate(means, start=1):
        known = confidence[(regions.labels == number) & np.isfinite(confidence)]
        assert mean == pytest.approx(known.mean()) if len(known) else np.isnan(mean)


# --- polygons -------------------------------------------------------------------------------------------------------


@CONNECTIVITY
@given(speckled)
def test_polygons_are_a_coverage_of_exactly_the_valid_pixels(connectivity: int, classes: np.ndarray) -> None:
    regions, polygons, grid = polygons_of(classes, connectivity)
    assert len(polygons) == len(regions)
    assert shapely.is_valid(polygons).all() and shapely.coverage_is_valid(polygons)
    pixels = np.bincount(regions.labels.ravel())[1:]
    np.testing.assert_allclose(areas_m2(polygons, grid.crs), 100.0 * pixels)
    back = rasterize(
        zip(polygons, regions.codes.tolist(), strict=True), classes.shape, NODATA, transform=grid.transform
    )
    np.testing.assert_array_equal(back, classes)


@given(speckled)
def test_kind_of_geometry_follows_the_connectivity(classes: np.ndarray) -> None:
    assert set(shapely.get_type_id(polygons_of(classes, 4)[1])) == {shapely.GeometryType.POLYGON}
    assert set(shapely.get_type_id(polygons_of(classes, 8)[1])) == {shapely.GeometryType.MULTIPOLYGON}


@settings(max_examples=50)
@given(speckled, st.floats(-3, 3), st.floats(0.1, 2))
def test_rotated_and_stretched_grids_keep_the_coverage(classes: np.ndarray, turn: float, stretch: float) -> None:
    transform = Affine.translation(*ORIGIN) * Affine.rotation(turn * 57.3) * Affine.scale(10, -10 * stretch)
    polygons = outline(find_regions(classes, 4), transform, False, Reporter())
    assert shapely.coverage_is_valid(polygons)
    assert shapely.area(polygons).sum() == pytest.approx((classes != NODATA).sum() * 100 * stretch)


@CONNECTIVITY
@given(speckled, st.floats(1, 200))
def test_simplified_polygons_have_no_gaps_or_overlaps_and_keep_the_rim(
    connectivity: int, classes: np.ndarray, tolerance: float
) -> None:
    _, polygons, grid = polygons_of(classes, connectivity)
    simplified = simplify(polygons, grid, tolerance)
    assert len(simplified) == len(polygons) and not shapely.is_empty(simplified).any()
    assert shapely.is_valid(simplified).all() and shapely.coverage_is_valid(simplified)
    assert shapely.coverage_union_all(simplified).equals(shapely.coverage_union_all(polygons))
    assert shapely.get_num_coordinates(simplified).sum() <= shapely.get_num_coordinates(polygons).sum()


def test_simplification_straightens_stairs_of_pixels() -> None:
    classes = np.where(np.tri(20, dtype=bool), 1, 2).astype(np.uint8)
    _, polygons, grid = polygons_of(classes, 4)
    fewer = [shapely.get_num_coordinates(p).sum() for p in (simplify(polygons, grid, 15), polygons)]
    assert fewer[0] < fewer[1] / 2


@pytest.mark.parametrize("batch", [1, 3])
def test_batches_make_the_same_polygons(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = np.random.default_rng(0).choice([1, 2, NODATA], (20, 30)).astype(np.uint8)
    whole = polygons_of(classes, 8)[1]
    monkeypatch.setattr("sparsevit.geodata.polygons.BATCH", batch)
    assert shapely.equals_exact(whole, polygons_of(classes, 8)[1]).all()


# --- areas ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("west", [-75.0, 179.9, 190.0])
@pytest.mark.parametrize("north", [89.99, 45.0, 0.5, -60.0])
def test_areas_in_degrees_are_those_on_the_ellipsoid(west: float, north: float) -> None:
    grid = Grid(CRS.from_epsg(4326), from_origin(west, north, 0.02, 0.01), 40, 30)
    box = shapely.box(west, north - 0.3, west + 0.8, north)
    dense = shapely.segmentize(box, 0.01)
    expected, _ = pyproj.Geod(ellps="WGS84").geometry_area_perimeter(dense)
    assert areas_m2(np.array([box]), grid.crs)[0] == pytest.approx(abs(expected), rel=1e-5)
    assert row_areas_m2(grid).sum() * 40 == pytest.approx(abs(expected), rel=1e-5)


def test_areas_in_degrees_sum_to_those_of_the_pixels() -> None:
    classes = np.random.default_rng(0).choice([1, 2, 6, NODATA], (40, 30)).astype(np.uint8)
    grid = Grid(CRS.from_epsg(4326), from_origin(10, 60, 0.5, 0.25), 30, 40)
    regions = find_regions(classes, 4)
    areas = areas_m2(outline(regions, grid.transform, False, Reporter()), grid.crs)
    np.testing.assert_allclose(areas, areas_of(regions, row_areas_m2(grid)))


def test_areas_in_feet_and_grads_are_square_metres() -> None:
    foot = 0.3048006096
    assert areas_m2(np.array([shapely.box(0, 0, 10, 10)]), CRS.from_epsg(2225))[0] == pytest.approx(100 * foot**2)
    grad, degree = (
        areas_m2(np.array([shapely.box(0, 0, w, w)]), CRS.from_epsg(e))[0] for w, e in ((1 / 0.9, 4807), (1.0, 4326))
    )
    assert grad == pytest.approx(degree, rel=1e-3)  # another ellipsoid


# --- the job --------------------------------------------------------------------------------------------------------


@pytest.fixture
def classes() -> np.ndarray:
    """Forest with a pond, water beyond a strip of nodata, and one stray pixel of cropland."""
    values = np.full((20, 30), 1, np.uint8)
    values[5:9, 5:9] = 10
    values[:, 15:18] = NODATA
    values[:, 18:] = 10
    values[10, 25] = 6
    return values


@pytest.fixture
def map_file(tmp_path: Path, classes: np.ndarray) -> Path:
    with class_raster(tmp_path / "map.tif", grid_of(classes), scheme(), {}) as out:
        out.write_rows(0, classes)
    return tmp_path / "map.tif"


@pytest.fixture
def confidence_file(tmp_path: Path, classes: np.ndarray) -> Path:
    values = np.random.default_rng(0).random(classes.shape).astype(np.float32)
    values[classes == NODATA] = np.nan
    values[10, 25] = np.nan
    return write_raster(tmp_path / "confidence.tif", values, nodata=np.nan)


def vectorize(reporter: Reporter | None = None, **params: Any) -> Any:
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in params.items()}
    return get_job("vectorize").execute(plain, reporter or Reporter())


def read(path: Path) -> geopandas.GeoDataFrame:
    return geopandas.read_file(path, layer=LAYER, engine="pyogrio")


def test_polygons_carry_code_name_area_and_confidence(
    tmp_path: Path, map_file: Path, confidence_file: Path, classes: np.ndarray
) -> None:
    result = vectorize(map=map_file, confidence=confidence_file, output=tmp_path / "o.gpkg")
    frame = read(tmp_path / "o.gpkg")
    assert list(frame.columns) == ["code", "class", "area_m2", "confidence", "geometry"]
    rows = {(c, n): (a, q) for c, n, a, q in frame.drop(columns="geometry").itertuples(index=False)}
    assert {key: area for key, (area, _) in rows.items() if key[0] != 10} == {
        (1, "Forest"): pytest.approx(28_400),
        (6, "Croplands"): pytest.approx(100),
    }
    assert sorted(frame[frame["code"] == 10]["area_m2"]) == pytest.approx([1600, 23_900])
    with rasterio.open(confidence_file) as src:
        values = src.read(1)
    assert rows[1, "Forest"][1] == pytest.approx(values[classes == 1].mean())
    assert np.isnan(rows[6, "Croplands"][1])
    assert (result.polygons, result.merged, result.output) == (4, 0, str(tmp_path / "o.gpkg"))
    assert result.area_ha == pytest.approx(5.4) and result.class_areas_ha["Water"] == pytest.approx(2.55)
    assert frame.crs == "EPSG:32618"


def test_without_confidence_the_field_is_empty(tmp_path: Path, map_file: Path) -> None:
    vectorize(map=map_file, output=tmp_path / "o.gpkg")
    with sqlite3.connect(tmp_path / "o.gpkg") as database:
        assert set(database.execute(f"SELECT confidence FROM {LAYER}")) == {(None,)}


def test_small_regions_join_and_are_counted(tmp_path: Path, map_file: Path) -> None:
    result = vectorize(map=map_file, minimum_mapping_unit_m2=1600, output=tmp_path / "o.gpkg")
    assert (result.polygons, result.merged) == (3, 1)  # the pond has just 1600 m²
    assert vectorize(map=map_file, minimum_mapping_unit_m2=1601, output=tmp_path / "o.gpkg").polygons == 2
    assert read(tmp_path / "o.gpkg")["area_m2"].sum() == pytest.approx(54_000)


def test_minimum_mapping_unit_holds_in_degrees_where_pixels_shrink(tmp_path: Path) -> None:
    """Two equal spots: the one near the pole has half the area."""
    values = np.full((60, 9), 1, np.uint8)
    values[2, 4] = values[57, 4] = 6
    path = write_raster(tmp_path / "deg.tif", values, gsd=1.0, origin=(0.0, 70.0), crs="EPSG:4326")
    vectorize(map=path, scheme=DFC, minimum_mapping_unit_m2=8e9, output=tmp_path / "o.gpkg")
    spots = read(tmp_path / "o.gpkg").query("code == 6")
    assert len(spots) == 1 and spots.geometry.iloc[0].centroid.y < 20


def test_any_categorical_raster_works_with_a_scheme(tmp_path: Path, classes: np.ndarray) -> None:
    floats = classes.astype(np.float32)
    floats[classes == NODATA] = np.nan
    for name, values in (("int.tif", classes.astype(np.int32)), ("float.tif", floats)):
        path = write_raster(tmp_path / name, values, nodata=NODATA if name == "int.tif" else None)
        assert vectorize(map=path, scheme=DFC, output=tmp_path / "o.gpkg").polygons == 4


def test_simplified_sample_is_gap_free(tmp_path: Path) -> None:
    reference = SAMPLE / "virginia" / "reference.tif"
    options = {"minimum_mapping_unit_m2": 1000, "simplify_m": 15, "connectivity": "8"}
    result = vectorize(map=reference, scheme=DFC, **options, output=tmp_path / "o.gpkg")
    frame = read(tmp_path / "o.gpkg")
    assert shapely.coverage_is_valid(frame.geometry.to_numpy()) and frame.is_valid.all()
    with rasterio.open(reference) as src:
        assert result.area_ha == pytest.approx((src.read_masks(1) > 0).sum() * src.res[0] ** 2 / 1e4)


def test_file_carries_scheme_and_style_for_qgis(tmp_path: Path, map_file: Path) -> None:
    vectorize(map=map_file, output=tmp_path / "o.gpkg")
    card = pyogrio.read_info(tmp_path / "o.gpkg", layer=LAYER)["layer_metadata"]["SPARSEVIT_SCHEME"]
    assert json.loads(card) == json.loads(scheme().to_json())
    with sqlite3.connect(tmp_path / "o.gpkg") as database:
        ((table, style),) = database.execute("SELECT f_table_name, styleQML FROM layer_styles WHERE useAsDefault")
    assert table == LAYER
    labels = {c.get("value"): c.get("label") for c in ElementTree.fromstring(style).iter("category")}
    assert labels == {str(c.code): c.name for c in scheme().classes}


def test_what_cannot_be_vectorized_is_refused_and_older_files_stay(tmp_path: Path, map_file: Path) -> None:
    output = tmp_path / "o.gpkg"
    output.write_bytes(b"older")
    before = set(tmp_path.iterdir())
    shape = (20, 30)
    codes = np.ones(shape, np.uint8)
    fractions = np.random.default_rng(0).random(shape).astype(np.float32)

    def raster(name: str, values: np.ndarray, **options: Any) -> Path:
        (tmp_path / "inputs").mkdir(exist_ok=True)
        return write_raster(tmp_path / "inputs" / name, values, **options)

    small, bare = raster("small.tif", fractions[:5]), raster("bare.tif", codes, crs=None)
    dfc: dict[str, Any] = {"scheme": DFC}
    refused: list[tuple[dict[str, Any], str, str]] = [
        ({"map": tmp_path / "none.tif"}, r"none\.tif does not exist", "map"),
        ({"map": raster("plain.tif", codes)}, r"plain\.tif carries no legend", "scheme"),
        ({"map": bare, **dfc}, r"bare\.tif has no coordinate reference system", "map"),
        ({"map": raster("dem.tif", fractions), **dfc}, r"dem\.tif is no class raster .* fractions such as", "map"),
        ({"map": raster("wide.tif", np.arange(600, dtype=np.int32).reshape(shape)), **dfc}, r"over 256 other", "map"),
        ({"map": raster("rgb.tif", np.stack([codes] * 3)), **dfc}, r"rgb\.tif is no class raster: it has 3", "map"),
        ({"map": raster("far.tif", codes * 77), **dfc}, r"scheme 'DFC2020.*' lacks: 77\.", "scheme"),
        ({"map": raster("empty.tif", codes * 255, nodata=255), **dfc}, r"empty\.tif has no pixel with a class", "map"),
        ({"map": map_file, "confidence": small}, r"small\.tif is not on the pixel grid of map\.tif", "confidence"),
        (
            {"map": map_file, "confidence": raster("moved.tif", fractions, origin=(ORIGIN[0] + 5, ORIGIN[1]))},
            r"moved\.tif is not on the pixel grid",
            "confidence",
        ),
        ({"map": map_file, "confidence": bare}, r"bare\.tif is not on the pixel grid", "confidence"),
        ({"map": map_file, "confidence": tmp_path / "none.tif"}, r"none\.tif does not exist", "confidence"),
        ({"map": map_file, "output": tmp_path / "o.shp"}, r"does not end in \.gpkg", "output"),
        ({"map": map_file, "connectivity": "6"}, r"connectivity", "connectivity"),
        ({"map": map_file, "simplify_m": -1}, r"simplify_m", "simplify_m"),
    ]
    for params, message, parameter in refused:
        with pytest.raises(InputError, match=message) as caught:
            vectorize(**{"output": output, **params})
        assert caught.value.parameter == parameter and caught.value.hint
    assert output.read_bytes() == b"older"
    assert set(tmp_path.iterdir()) - {tmp_path / "inputs"} == before


def test_a_damaged_map_is_named(tmp_path: Path, map_file: Path) -> None:
    content = map_file.read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[:-40])
    with pytest.raises(InputError, match=r"cut\.tif"):
        vectorize(map=tmp_path / "cut.tif", scheme=DFC, output=tmp_path / "o.gpkg")


class Canceller(Reporter):
    """Cancels at the n-th question."""

    def __init__(self, after: int) -> None:
        self.left, self.fractions = after, [0.0]

    def progress(self, fraction: float, phase: str = "") -> None:
        self.fractions.append(fraction)

    def cancelled(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_progress_rises_to_one_and_cancelling_anywhere_leaves_nothing(tmp_path: Path, map_file: Path) -> None:
    options = {"map": map_file, "minimum_mapping_unit_m2": 500, "simplify_m": 10, "output": tmp_path / "o.gpkg"}
    diary = Canceller(1000)
    vectorize(diary, **options)
    assert diary.fractions == sorted(diary.fractions) and diary.fractions[-1] == 1
    (tmp_path / "o.gpkg").unlink()
    before = set(tmp_path.iterdir())
    for after in range(1000 - diary.left):
        with pytest.raises(CancelledError):
            vectorize(Canceller(after), **options)
        assert set(tmp_path.iterdir()) == before


def test_an_older_layer_is_replaced_whole(tmp_path: Path, map_file: Path) -> None:
    for unit, expected in ((0, 4), (1700, 2)):
        vectorize(map=map_file, minimum_mapping_unit_m2=unit, output=tmp_path / "o.gpkg")
        assert len(read(tmp_path / "o.gpkg")) == expected
        assert [str(n) for n in pyogrio.list_layers(tmp_path / "o.gpkg")[:, 0]] == [LAYER, "layer_styles"]
    assert not list(tmp_path.glob(".*"))
