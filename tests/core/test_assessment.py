"""Accuracy and area estimates, against hand-computed and published numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.crs import CRS
from rasterio.transform import from_origin
from sklearn import metrics
from small_rasters import ORIGIN, RESOURCES, scheme, write_layer, write_raster

from sparsevit.assessment.accuracy import accuracy, count_pairs
from sparsevit.assessment.area import estimate_areas
from sparsevit.assessment.notes import area_notes
from sparsevit.errors import InputError
from sparsevit.geodata.legend import ClassScheme, LandClass
from sparsevit.geodata.scene import Grid
from sparsevit.geodata.writer import class_raster
from sparsevit.jobs import assess, tiles
from sparsevit.reporting import Reporter

GRID = Grid(CRS.from_epsg(32618), from_origin(*ORIGIN, 10, 10), 30, 20)


def run(job: Any, **params: Any) -> Any:
    return job.JOB.run(job.JOB.parse({k: str(v) if isinstance(v, Path) else v for k, v in params.items()}), Reporter())


def square(col: int, row: int, width: int = 10, height: int = 20) -> shapely.Polygon:
    """A box by pixels of `GRID`."""
    left, top = ORIGIN[0] + 10 * col, ORIGIN[1] - 10 * row
    return shapely.box(left, top - 10 * height, left + 10 * width, top)


@pytest.fixture
def map_file(tmp_path: Path) -> Path:
    """Forest, water and cropland in three strips of 10 columns; the last row is nodata."""
    values = np.repeat([[1, 10, 6]], 20, axis=0).repeat(10, axis=1).astype(np.uint8)
    values[-1] = 255
    with class_raster(tmp_path / "map.tif", GRID, scheme(), {"SPARSEVIT_MODEL": "m.safetensors"}) as out:
        out.write_rows(0, values)
    return tmp_path / "map.tif"


# --- accuracy ------------------------------------------------------------------------------------------------------


def test_measures_equal_a_3_by_3_example_computed_by_hand() -> None:
    """Map and reference of 3 × 3 pixels; one pixel is ignored, the third class is absent from the reference.

    reference  0 0 1    map  0 1 1
               0 1 1         0 1 0
               - 1 1         2 1 2
    """
    reference = np.array([[0, 0, 1], [0, 1, 1], [-1, 1, 1]])
    mapped = np.array([[0, 1, 1], [0, 1, 0], [2, 1, 2]])
    result = accuracy(count_pairs(mapped, reference, 4))
    assert result.confusion.tolist() == [[2, 1, 0, 0], [1, 3, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert result.overall == pytest.approx(5 / 8)
    assert result.recall[:2] == pytest.approx([2 / 3, 3 / 5])
    assert result.precision[:3] == pytest.approx([2 / 3, 3 / 4, 0])
    assert result.iou[:3] == pytest.approx([2 / 4, 3 / 6, 0])
    assert result.f1[:2] == pytest.approx([2 / 3, 6 / 9])
    assert result.average == pytest.approx((2 / 3 + 3 / 5) / 2)
    assert result.miou == pytest.approx(0.5)
    assert result.absent.tolist() == [False, False, True, True]
    assert np.isnan(result.iou[3])


@settings(max_examples=60)
@given(arrays(np.int16, 40, elements=st.integers(-2, 3)), arrays(np.int16, 40, elements=st.integers(-2, 3)))
def test_measures_agree_with_scikit_learn(mapped: np.ndarray, reference: np.ndarray) -> None:
    known = (mapped >= 0) & (reference >= 0)
    confusion = count_pairs(mapped, reference, 4)
    assert confusion.sum() == known.sum()
    if not known.any():
        return
    result, y, p = accuracy(confusion), reference[known], mapped[known]
    classes = np.unique(y)
    options = {"labels": classes, "average": "macro", "zero_division": 0}
    assert result.overall == pytest.approx(metrics.accuracy_score(y, p))
    assert result.average == pytest.approx(metrics.recall_score(y, p, **options))
    assert result.miou == pytest.approx(metrics.jaccard_score(y, p, **options))
    assert np.nan_to_num(result.f1[classes]) == pytest.approx(
        metrics.f1_score(y, p, labels=classes, average=None, zero_division=0)
    )


# --- areas ---------------------------------------------------------------------------------------------------------


def test_area_estimates_equal_the_published_example() -> None:
    """Olofsson et al. 2014, section 5: deforestation, forest gain, stable forest, stable non-forest; 30 m pixels."""
    confusion = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
    mapped = np.array([200_000, 150_000, 3_200_000, 6_450_000]) * 0.09
    result = estimate_areas(confusion, mapped)
    assert result.estimated == pytest.approx([21_158, 11_686, 285_770, 581_386], abs=1)
    assert result.margin == pytest.approx([6_158, 3_756, 15_510, 16_282], abs=1)
    assert (result.overall, result.overall_margin) == pytest.approx((0.947, 0.018), abs=1e-3)
    assert result.users == pytest.approx([0.88, 0.73, 0.93, 0.96], abs=5e-3)
    assert result.users_margin == pytest.approx([0.07, 0.10, 0.04, 0.02], abs=5e-3)
    assert result.producers == pytest.approx([0.75, 0.85, 0.93, 0.96], abs=5e-3)


@settings(max_examples=80)
@given(
    arrays(np.int64, (3, 3), elements=st.integers(0, 50)),
    arrays(np.float64, 3, elements=st.floats(0, 1000)),
)
def test_estimated_areas_share_out_the_sampled_area(confusion: np.ndarray, mapped: np.ndarray) -> None:
    result = estimate_areas(confusion, mapped)
    sampled = confusion.sum(axis=1) > 0
    assert result.estimated.sum() == pytest.approx(mapped[sampled].sum(), abs=1e-6)
    assert (result.margin >= 0).all()
    np.testing.assert_array_equal(result.unsampled, np.where(sampled, 0, mapped))


def test_a_map_without_errors_is_certain_of_its_areas() -> None:
    result = estimate_areas(np.diag([10, 20]), np.array([3.0, 4.0]))
    assert result.estimated == pytest.approx([3, 4])
    assert result.margin == pytest.approx([0, 0])


def test_a_single_sample_of_a_class_tells_no_spread() -> None:
    result = estimate_areas(np.array([[1, 0], [3, 7]]), np.array([3.0, 4.0]))
    assert result.users[0] == 1 and np.isnan(result.users_margin[0]) and result.users_margin[1] > 0
    assert result.single.tolist() == [True, False]
    (note,) = area_notes(result, ClassScheme("two", (LandClass(1, "Wood", "#00ff00"), LandClass(2, "Moor", "#ff0000"))))
    assert note.endswith("too narrow: Wood.")


def test_intervals_cover_the_true_area_19_times_in_20() -> None:
    """Stratified samples of a known population."""
    random = np.random.default_rng(0)
    size, truth = np.array([7000, 3000]), np.array([[0.9, 0.1], [0.25, 0.75]])
    area = size @ truth
    hits = 0
    for _ in range(400):
        confusion = np.array([random.multinomial(100, row) for row in truth])
        result = estimate_areas(confusion, size.astype(float))
        hits += abs(result.estimated[0] - area[0]) <= result.margin[0]
    assert 0.91 <= hits / 400 <= 0.99


# --- the job -------------------------------------------------------------------------------------------------------


def test_a_raster_reference_is_compared_pixel_by_pixel(tmp_path: Path, map_file: Path) -> None:
    reference = np.repeat([[1, 10, 1]], 20, axis=0).repeat(10, axis=1).astype(np.uint8)
    reference[0] = 255
    reference[1, :5] = 77
    path = write_raster(tmp_path / "ref.tif", reference, nodata=255)
    result = run(assess, map=map_file, reference=path, output=tmp_path / "r.html", json_output=tmp_path / "r.json")
    assert result.pixels == 18 * 30 - 5
    assert result.overall_accuracy == pytest.approx((180 - 5 + 180) / 535)
    assert result.average_accuracy == pytest.approx((175 / 355 + 1) / 2)
    assert result.miou == pytest.approx((175 / 355 + 1) / 2)
    assert "Croplands" in result.absent_classes
    assert any("77 (5 of 540 that could be compared" in note for note in result.notes)
    data = json.loads((tmp_path / "r.json").read_text())
    assert data["pixels"] == result.pixels
    assert data["classes"][0]["name"] == "Forest"
    assert data["classes"][0]["mapped_ha"] == pytest.approx(190 * 0.01)
    assert sum(result.estimated_ha.values()) == pytest.approx(570 * 0.01)
    page = (tmp_path / "r.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "http" not in page.replace("http-equiv", "")
    for word in ("Land-cover accuracy", "m.safetensors", "ref.tif", "independent random sample", "Urban/Built-up"):
        assert word in page


def test_a_reference_in_another_crs_and_resolution_is_warped(tmp_path: Path, map_file: Path) -> None:
    coarse = np.array([[1, 10, 6]], np.uint8)
    path = write_raster(tmp_path / "ref.tif", coarse, gsd=100, origin=(ORIGIN[0], ORIGIN[1] + 0.0))
    result = run(assess, map=map_file, reference=path, output=tmp_path / "r.html")
    assert (result.pixels, result.overall_accuracy) == (300, 1.0)


def test_polygons_count_the_pixels_whose_centre_they_cover(tmp_path: Path, map_file: Path) -> None:
    shapes = [square(0, 0, 3, 2).buffer(4, join_style="mitre"), square(25, 0, 2, 2), square(12, 5, 1, 1)]
    layer = write_layer(tmp_path / "p.gpkg", shapes, cover=["forest", "Water", None])
    result = run(assess, map=map_file, reference=layer, field="cover", output=tmp_path / "r.html")
    assert (result.pixels, result.overall_accuracy) == (10, pytest.approx(6 / 10))


def test_points_count_once_each(tmp_path: Path, map_file: Path) -> None:
    points = [square(c, 3, 1, 1).centroid for c in (0, 0, 15, 25, 200)] + [square(3, 19, 1, 1).centroid]
    layer = write_layer(tmp_path / "p.gpkg", points, code=[1, 1, 1, 6, 1, 1])
    result = run(assess, map=map_file, reference=layer, field="code", output=tmp_path / "r.html")
    assert (result.pixels, result.overall_accuracy) == (4, 0.75)
    assert "points compared" in (tmp_path / "r.html").read_text()
    assert any("drawn at random" in n for n in result.notes)


def test_a_mapping_translates_the_reference_and_drops_silently(tmp_path: Path, map_file: Path) -> None:
    reference = np.repeat([[311, 999, 311]], 20, axis=0).repeat(10, axis=1).astype(np.int32)
    path = write_raster(tmp_path / "ref.tif", reference)
    mapping = {"311": "Forest", "999": None}
    result = run(assess, map=map_file, reference=path, mapping=mapping, output=tmp_path / "r.html")
    assert (result.pixels, result.overall_accuracy) == (380, 0.5)
    assert not any("left out" in n for n in result.notes)


def test_only_the_tiles_of_a_split_are_assessed(tmp_path: Path, map_file: Path) -> None:
    options = {"tile_size_m": 50.0, "block_size_m": 50.0, "gap_m": 0.0, "validation_share": 0.3, "min_valid": 0.0}
    run(tiles, scene=[str(map_file)], **options, output=tmp_path / "t.gpkg")
    reference = write_raster(tmp_path / "ref.tif", np.ones((20, 30), np.uint8))
    common = {"map": map_file, "reference": reference, "tiles": tmp_path / "t.gpkg", "output": tmp_path / "r.html"}
    pixels = [run(assess, **common, split=s).pixels for s in ("train", "validation")]
    assert sum(pixels) == run(assess, map=map_file, reference=reference, output=tmp_path / "r.html").pixels == 570
    assert 0 < pixels[1] < pixels[0]
    with pytest.raises(InputError, match="no tiles in the split 'test'"):
        run(assess, **common, split="test")
    with pytest.raises(InputError, match="There is no split 'exam'"):
        run(assess, **common, split="exam")


def test_a_map_without_legend_needs_a_scheme(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "bare.tif", np.ones((20, 30), np.uint8))
    with pytest.raises(InputError, match="carries no legend"):
        run(assess, map=path, reference=path, output=tmp_path / "r.html")
    dfc = RESOURCES / "schemes" / "dfc2020.json"
    assert run(assess, map=path, reference=path, scheme=dfc, output=tmp_path / "r.html").miou == 1


def test_what_cannot_be_compared_is_refused_and_older_reports_stay(tmp_path: Path, map_file: Path) -> None:
    report = tmp_path / "r.html"
    report.write_text("older")
    ones = np.ones((20, 30), np.uint8)
    far = write_raster(tmp_path / "far.tif", ones, origin=(0.0, 0.0))
    with pytest.raises(InputError, match=r"far\.tif does not overlap the map"):
        run(assess, map=map_file, reference=far, output=report)
    empty = write_raster(tmp_path / "empty.tif", ones * 255, nodata=255)
    with pytest.raises(InputError, match="no place where both"):
        run(assess, map=map_file, reference=empty, output=report)
    with pytest.raises(InputError, match="does not exist"):
        run(assess, map=map_file, reference=tmp_path / "none.tif", output=report)
    layer = write_layer(tmp_path / "p.gpkg", [square(0, 0)], cover=["lava"])
    with pytest.raises(InputError, match=r"p\.gpkg, field 'cover', has the class 'lava'"):
        run(assess, map=map_file, reference=layer, field="cover", output=report)
    with pytest.raises(InputError, match=r"class field of .*p\.gpkg is not given. It has the fields cover"):
        run(assess, map=map_file, reference=layer, output=report)
    with pytest.raises(InputError, match=r"does not end in \.html"):
        run(assess, map=map_file, reference=layer, output=tmp_path / "r.pdf")
    assert report.read_text() == "older"


def test_a_map_in_degrees_gets_no_areas(tmp_path: Path) -> None:
    values = np.ones((4, 4), np.uint8)
    path = write_raster(tmp_path / "deg.tif", values, gsd=0.001, origin=(-75.0, 37.0), crs="EPSG:4326")
    dfc = RESOURCES / "schemes" / "dfc2020.json"
    result = run(assess, map=path, reference=path, scheme=dfc, output=tmp_path / "r.html")
    assert result.estimated_ha == {}
    assert any("in degrees" in n for n in result.notes)


def test_a_title_cannot_smuggle_markup_into_the_page(tmp_path: Path, map_file: Path) -> None:
    run(assess, map=map_file, reference=map_file, title="<script>x</script>", output=tmp_path / "r.html")
    assert "<script>" not in (tmp_path / "r.html").read_text()


def test_maps_taller_than_a_block_are_compared_whole(tmp_path: Path) -> None:
    mapped, truth = np.random.default_rng(0).choice([1, 6, 10, 255], (2, 700, 5)).astype(np.uint8)
    paths = [write_raster(tmp_path / f"{k}.tif", v, nodata=255) for k, v in enumerate((mapped, truth))]
    dfc = RESOURCES / "schemes" / "dfc2020.json"
    report = run(assess, map=paths[0], reference=paths[1], scheme=dfc, output=tmp_path / "r.html")
    both = (mapped != 255) & (truth != 255)
    assert report.pixels == both.sum()
    assert report.overall_accuracy == pytest.approx((mapped == truth)[both].mean())
    shared = metrics.jaccard_score(truth[both], mapped[both], average="macro")
    assert report.miou == pytest.approx(shared)
