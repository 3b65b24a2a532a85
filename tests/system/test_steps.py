"""Every algorithm does its job through `qgis_process` on the staged plugin."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from conftest import PHASES, REFINING, TILING, TRAINING, Place, QgisProcess, Run

pytestmark = pytest.mark.usefixtures("steps")


def test_all_algorithms_are_listed(qgis: QgisProcess) -> None:
    listed = qgis.call("list").out
    for name in ("maplandcover", "createtiles", "tagtiles", "trainclassifier", "generatepseudomasks"):
        assert f"sparsevit:{name}" in listed
    for name in (
        "reviewtags",
        "suggesttiles",
        "refinelandcover",
        "predictlandcover",
        "assessaccuracy",
        "vectorizelandcover",
        "inspectheads",
        "studyheads",
        "checkengine",
    ):
        assert f"sparsevit:{name}" in listed


def test_numbers_are_results(steps: dict[str, Run]) -> None:
    assert int(steps["createtiles"].results["TILES"]) == 28
    assert int(steps["tagtiles"].results["TAGGED"]) == 28
    trained = steps["trainclassifier"].results
    assert int(trained["HEADS_TOTAL"]) == 24 and int(trained["HEADS_KEPT"]) == 7
    assert 0 <= float(trained["MACRO_F1"]) <= 1
    assert float(steps["predictlandcover"].results["MPX"]) == pytest.approx(448 * 256 / 1e6, rel=0.01)
    assert 0 <= float(steps["assessaccuracy"].results["MIOU"]) <= 1
    assert int(steps["vectorizelandcover"].results["POLYGONS"]) >= 1
    assert steps["checkengine"].results["ENGINE"] == "0.1.0"


def test_map_lies_on_the_grid_of_the_scene_and_carries_its_legend(place: Place) -> None:
    with rasterio.open(place.landcover) as landcover, rasterio.open(place.scene) as scene:
        assert landcover.shape == scene.shape
        assert landcover.transform == scene.transform and landcover.crs == scene.crs
        assert landcover.nodata == 255 and landcover.dtypes == ("uint8",)
        assert landcover.colormap(1)[10][:3] == (0x1C, 0x0D, 0xFF)  # Water of DFC2020
        assert set(np.unique(landcover.read(1))) <= set(range(1, 11)) | {255}


def test_untagged_tiles_are_ranked_in_their_own_table(qgis: QgisProcess, place: Place) -> None:
    untagged = place.folder / "untagged.gpkg"
    scene = [place.scene, place.scene_20m]
    assert qgis.run("createtiles", SCENE=scene, OUTPUT=untagged, **TILING).code == 0
    done = qgis.run("suggesttiles", TILES=untagged, CLASSIFIER=place.classifier)
    assert done.code == 0, done.reason
    table = geopandas.read_file(untagged)
    assert table["suggest_rank"].notna().sum() == int(done.results["RANKED"]) > 0
    refused = qgis.run("suggesttiles", TILES=place.tiles, CLASSIFIER=place.classifier)
    assert refused.code == 1 and "is tagged" in refused.reason


def test_reviewed_tags_are_beside_those_that_were_given(qgis: QgisProcess, place: Place) -> None:
    reviewed = place.folder / "reviewed.gpkg"
    done = qgis.run("reviewtags", TILES=place.tiles, REVIEW_EPOCHS=2, FORGET=True, OUTPUT=reviewed)
    assert done.code == 0, done.reason
    before, after = geopandas.read_file(place.tiles), geopandas.read_file(reviewed)
    assert "review_wrong" not in before.columns
    assert after["review_wrong"].between(0, 1).sum() == before["split"].isin(["train", "validation"]).sum()
    assert after["review_doubts"].notna().sum() == int(done.results["DOUBTED_TILES"])
    named = [column for column in before.columns if column.startswith("has_")]
    forgotten = after[named].isna().sum().sum() - before[named].isna().sum().sum()
    assert forgotten == int(done.results["FORGOTTEN"])


def test_probabilities_sum_to_one(place: Place) -> None:
    with rasterio.open(place.folder / "probabilities.tif") as raster:
        total = raster.read(masked=True).sum(axis=0)
    assert np.allclose(total.compressed(), 1, atol=0.02)


def test_polygons_cover_the_map(steps: dict[str, Run], place: Place) -> None:
    polygons = geopandas.read_file(place.polygons, layer="land_cover")
    assert polygons.crs == "EPSG:32618" and set(polygons.columns) > {"code", "class", "area_m2", "confidence"}
    with rasterio.open(place.landcover) as raster:
        mapped = (raster.read(1) != 255).sum() * raster.res[0] ** 2
    assert polygons["area_m2"].sum() == pytest.approx(mapped)
    assert float(steps["vectorizelandcover"].results["AREA_HA"]) == pytest.approx(mapped / 1e4)


def test_a_refined_model_has_the_heads_of_its_classifier(place: Place) -> None:
    with rasterio.open(place.folder / "heads.tif") as ours, rasterio.open(place.folder / "inspected.tif") as inspected:
        assert ours.count == inspected.count == 7
        assert np.allclose(ours.read(), inspected.read(), atol=1e-5)
        assert all(name.startswith("Block") and "gate" in name for name in inspected.descriptions)


def test_study_of_heads_has_a_curve_for_each_method(qgis: QgisProcess, place: Place) -> None:
    report, numbers = place.folder / "study.html", place.folder / "study.json"
    done = qgis.run(
        "studyheads",
        TILES=place.tiles,
        REFERENCE=place.pseudomask,
        SHARES="0.25",
        SEEDS=1,
        **PHASES,
        OUTPUT=report,
        JSON_OUTPUT=numbers,
    )
    assert done.code == 0, done.reason
    data = json.loads(numbers.read_text(encoding="utf-8"))
    curve = [(row["method"], row["share"], row["heads"]) for row in data["rows"]]
    chosen = [(method, 0.25, 6) for method in ("learned gates", "Taylor importance", "random heads")]
    assert curve == [("all heads", 1.0, 24), ("no heads", 0.0, 0), *chosen]
    assert all(0 <= row[score] <= 1 for row in data["rows"] for score in ("f1_mean", "ap_mean", "miou_mean"))
    assert [point["macro_f1"] for point in data["points"]] == [row["f1_mean"] for row in data["rows"]]
    page = report.read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert all(f"<td>{row['method']}</td><td>{row['heads']}</td>" in page for row in data["rows"])
    assert int(done.results["HEADS_TOTAL"]) == 24
    assert float(done.results["MACRO_F1_ALL_HEADS"]) == pytest.approx(data["rows"][0]["f1_mean"], abs=1e-5)
    assert (done.results["OUTPUT"], done.results["JSON_OUTPUT"]) == (str(report), str(numbers))
    assert all(f"{heads} heads: {method}" in done.out for method, _share, heads in curve)


def test_report_has_numbers_and_figures(place: Place) -> None:
    assert json.loads((place.folder / "report.json").read_text(encoding="utf-8"))
    assert "<html" in (place.folder / "report.html").read_text(encoding="utf-8").lower()


def test_one_step_does_it_all(qgis: QgisProcess, place: Place) -> None:
    folder = place.folder / "one step"
    folder.mkdir()
    outputs = {
        "LANDCOVER": "landcover.tif",
        "CONFIDENCE": "confidence.tif",
        "PSEUDOMASK": "pseudomask.tif",
        "TILES": "tiles.gpkg",
        "CLASSIFIER_MODEL": "classifier.safetensors",
        "MODEL": "landcover.safetensors",
        "REPORT": "report.html",
        "REPORT_JSON": "report.json",
    }
    done = qgis.run(
        "maplandcover",
        SCENE=[place.scene, place.scene_20m],
        LAYER=place.tags,
        FIELD="classes",
        REFERENCE=place.pseudomask,
        **TILING,
        **TRAINING,
        **REFINING,
        **{name: folder / file for name, file in outputs.items()},
    )
    assert done.code == 0, done.reason
    assert sorted(p.name for p in folder.glob("[!.]*") if p.suffix != ".xml") == sorted(outputs.values())
    assert not list(folder.glob(".*"))
    assert {"HEADS_KEPT", "HEADS_TOTAL", "MACRO_F1", "MEAN_AP", "MIOU", "OA", "SECONDS"} <= set(done.results)
    assert "100 - done" in done.out


def test_part_of_a_scene_is_mapped(qgis: QgisProcess, place: Place) -> None:
    output = place.folder / "part.tif"
    done = qgis.run(
        "predictlandcover",
        MODEL=place.model,
        SCENE=[place.scene, place.scene_20m],
        EXTENT="444000,446000,4172000,4173000 [EPSG:32618]",
        OUTPUT=output,
    )
    assert done.code == 0, done.reason
    with rasterio.open(output) as part:
        assert part.shape == (100, 200)
        assert part.bounds == (444000, 4172000, 446000, 4173000)


def test_relative_paths_work(qgis: QgisProcess, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.folder)
    done = qgis.run("createtiles", SCENE=[place.scene.name], OUTPUT="relative.gpkg", **TILING)
    assert done.code == 0, done.reason
    assert (place.folder / "relative.gpkg").is_file()


def test_json_output_is_valid_json(qgis: QgisProcess, place: Place) -> None:
    arguments = [f"--SCENE={place.scene}", "--BLOCK_SIZE_M=1280", f"--OUTPUT={place.folder / 'j.gpkg'}"]
    answer = json.loads(qgis.call("--json", "run", "sparsevit:createtiles", *arguments).out)
    assert answer["results"]["TILES"] == 28


def test_environment_of_qgis_does_not_break_the_engine(qgis: QgisProcess) -> None:
    dirty = {"PROJ_LIB": "/nowhere", "PROJ_DATA": "/nowhere", "GDAL_DATA": "/nowhere"}
    assert qgis.run("checkengine", environment=dirty).code == 0


@pytest.mark.parametrize(
    ("network", "method", "views"),
    [("weaktr", "fine_cam", "one"), ("weaktr_faithful", "class_tokens", "published")],
)
def test_weaktr_trains_and_its_class_maps_are_refined(
    qgis: QgisProcess, place: Place, tmp_path: Path, network: str, method: str, views: str
) -> None:
    classifier, pseudomask, model = (tmp_path / name for name in ("c.safetensors", "masks.tif", "m.safetensors"))
    files = {"TILES": place.tiles, "CLASSIFIER": classifier, "PSEUDOMASK": pseudomask, "OUTPUT": model}
    for name, values in (
        ("trainclassifier", {"TILES": place.tiles, "OUTPUT": classifier, **TRAINING, "NETWORK": network}),
        (
            "generatepseudomasks",
            {"MODEL": classifier, "TILES": place.tiles, "OUTPUT": pseudomask, "METHOD": method, "VIEWS": views},
        ),
        ("refinelandcover", {**files, **REFINING, "CLIP": "true"}),
    ):
        done = qgis.run(name, **values)
        assert done.code == 0, f"{name}: {done.reason}"
    with rasterio.open(pseudomask) as raster:
        assert len(set(np.unique(raster.read(1))) - {255}) > 1
    assert model.stat().st_size > 1e6


def test_a_segmenter_refines(qgis: QgisProcess, place: Place, tmp_path: Path) -> None:
    files = {"TILES": place.tiles, "CLASSIFIER": place.classifier, "PSEUDOMASK": place.pseudomask}
    done = qgis.run("refinelandcover", **files, **REFINING, DECODER="segmenter", OUTPUT=tmp_path / "model.safetensors")
    assert done.code == 0, done.reason
    assert (tmp_path / "model.safetensors").stat().st_size > 1e6
