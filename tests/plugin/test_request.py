"""What the engine is asked, seen through an engine that answers with its own request."""

from __future__ import annotations

import os
import shutil

import pytest
from conftest import SAMPLE, Feedback
from osgeo import gdal
from qgis.core import (
    QgsProcessing,
    QgsProcessingFeatureSourceDefinition,
    QgsProject,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QVariant

SCENE = SAMPLE / "virginia" / "s2_10m.tif"
TAGS = SAMPLE / "virginia" / "tags.gpkg"

pytestmark = pytest.mark.usefixtures("working_engine")


@pytest.fixture
def requested(algorithm, context, monkeypatch):
    """A function from an algorithm's name and values to the request that the engine gets, and the results."""
    from sparsevit_qgis.engine import worker

    def ask(name, **values):
        sent = {}
        real = worker.run_job

        def spy(python, job, params, feedback, writes):
            sent.update(real(python, job, params, feedback, writes))
            return {**sent, "table": "", "decision": "", "class_shares": {}}

        monkeypatch.setattr(worker, "run_job", spy)
        tool = algorithm(name)
        results, fine = tool.run(values, context, Feedback())
        assert fine
        return sent, results

    return ask


def test_values_become_the_fields_of_the_job(requested, tmp_path):
    sent, results = requested(
        "createtiles",
        SCENE=[str(SCENE)],
        BAND_NAMES=" B02, B03,,B04 ,B08",
        TILE_SIZE_M=320,
        SPLIT_SEED=7,
        LAYOUT="scene",
        OUTPUT=str(tmp_path / "tiles.gpkg"),
    )
    assert sent["scene"] == [str(SCENE)]
    assert sent["band_names"] == ["B02", "B03", "B04", "B08"]
    assert (sent["tile_size_m"], sent["split_seed"], sent["layout"]) == (320.0, 7, "scene")
    assert sent["output"] == results["OUTPUT"] == str(tmp_path / "tiles.gpkg")
    assert not {"folder", "footprints", "extent"} & set(sent)  # left empty: the engine's default holds


def test_a_number_left_out_is_left_to_the_engine(requested, tmp_path):
    index = shutil.copy(TAGS, tmp_path / "tiles.gpkg")
    sent, _results = requested("tagtiles", TILES=str(index), SOURCE="text", FIELD="classes")
    assert "presence_threshold" not in sent and sent["min_labelled"] == 0.5


@pytest.mark.parametrize(
    ("value", "threshold"),
    [(None, None), (QVariant(), None), ("", None), (0.2, 0.2), ("0.2", 0.2), (0, 0)],
)
def test_nothing_is_no_number(requested, tmp_path, value, threshold):
    index = shutil.copy(TAGS, tmp_path / "tiles.gpkg")
    values = {"SOURCE": "text", "FIELD": "classes", "PRESENCE_THRESHOLD": value}
    sent, _results = requested("tagtiles", TILES=str(index), **values)
    assert sent.get("presence_threshold") == threshold


def test_extent_is_in_the_system_of_the_first_raster(requested):
    sent, _results = requested(
        "createtiles",
        SCENE=[str(SCENE)],
        EXTENT="-75.7,-75.6,37.6,37.7 [EPSG:4326]",
        OUTPUT=QgsProcessing.TEMPORARY_OUTPUT,
    )
    west, south, east, north = sent["extent"]
    assert 400_000 < west < east < 500_000 and 4_150_000 < south < north < 4_190_000


def test_tile_index_is_passed_as_it_is_and_updated_in_place(requested, tmp_path):
    index = shutil.copy(TAGS, tmp_path / "tiles.gpkg")
    sent, results = requested("tagtiles", TILES=f"{index}|layername=tags", SOURCE="text", FIELD="classes")
    assert sent["tiles"] == results["OUTPUT"] == str(index)
    assert "output" not in sent and "layer" not in sent


def test_selected_features_are_copied_for_the_engine(requested, tmp_path):
    index = shutil.copy(TAGS, tmp_path / "tiles.gpkg")
    layer = QgsVectorLayer(str(TAGS), "tags", "ogr")
    QgsProject.instance().addMapLayer(layer)
    layer.selectByIds([1, 2, 3])
    selected = QgsProcessingFeatureSourceDefinition(layer.id(), selectedFeaturesOnly=True)
    sent, _results = requested("tagtiles", TILES=str(index), SOURCE="text", FIELD="classes", LAYER=selected)
    assert sent["layer"] != str(TAGS)
    assert QgsVectorLayer(sent["layer"], "copy", "ogr").featureCount() == 3
    QgsProject.instance().clear()


def test_a_layer_is_named_where_its_file_has_several(requested, tmp_path):
    index, several = shutil.copy(TAGS, tmp_path / "tiles.gpkg"), str(tmp_path / "several.gpkg")
    gdal.VectorTranslate(several, str(TAGS), format="GPKG", layerName="first")
    gdal.VectorTranslate(several, str(TAGS), format="GPKG", layerName="several", accessMode="append")
    for name in ("first", "several"):
        layer = f"{several}|layername={name}"
        sent, _results = requested("tagtiles", TILES=str(index), SOURCE="text", FIELD="classes", LAYER=layer)
        assert sent["layer"] == layer


def test_the_copy_of_a_layer_in_another_format_is_read_whole(requested, tmp_path):
    index, kml = shutil.copy(TAGS, tmp_path / "tiles.gpkg"), str(tmp_path / "two.kml")
    gdal.VectorTranslate(kml, str(TAGS), format="LIBKML", layerName="first", dstSRS="EPSG:4326")
    layer = f"{kml}|layername=first"
    assert QgsVectorLayer(layer, "kml", "ogr").isValid()
    sent, _results = requested("tagtiles", TILES=str(index), SOURCE="text", FIELD="classes", LAYER=layer)
    copy = QgsVectorLayer(sent["layer"], "copy", "ogr")
    assert (
        sent["layer"].endswith(".gpkg")
        and copy.featureCount() == QgsVectorLayer(str(TAGS), "tags", "ogr").featureCount()
    )


def test_memory_layer_is_copied_for_the_engine(requested, tmp_path):
    index = shutil.copy(TAGS, tmp_path / "tiles.gpkg")
    memory = QgsVectorLayer("Polygon?crs=EPSG:32618&field=classes:string", "scratch", "memory")
    QgsProject.instance().addMapLayer(memory)
    sent, _results = requested("tagtiles", TILES=str(index), SOURCE="text", FIELD="classes", LAYER=memory)
    assert os.path.isfile(sent["layer"])
    QgsProject.instance().clear()


def test_masks_of_patches_go_to_a_folder(requested, tmp_path):
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"")
    index = shutil.copy(TAGS, tmp_path / "tiles.gpkg")
    folder = tmp_path / "masks"
    sent, results = requested(
        "generatepseudomasks",
        MODEL=str(model),
        TILES=str(index),
        OUTPUT=QgsProcessing.TEMPORARY_OUTPUT,
        OUTPUT_FOLDER=str(folder),
    )
    assert sent["output"] == str(folder) and "output_folder" not in sent
    assert "OUTPUT" not in results


def test_temporary_output_is_one_and_the_same_path(requested):
    sent, results = requested("createtiles", SCENE=[str(SCENE)], OUTPUT=QgsProcessing.TEMPORARY_OUTPUT)
    assert sent["output"] == results["OUTPUT"]


def test_optional_outputs_are_not_written_by_default(requested, tmp_path):
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"")
    sent, results = requested(
        "predictlandcover", MODEL=str(model), SCENE=[str(SCENE)], OUTPUT=QgsProcessing.TEMPORARY_OUTPUT
    )
    assert "confidence" not in sent and "probabilities" not in sent
    assert {"OUTPUT", "MPX", "MPX_PER_S", "SECONDS"} == set(results)


def test_a_killed_engine_leaves_no_half_written_file(algorithm, context, stand_in, tmp_path):
    stand_in("""
        send("ready", version="0.0.0")
        for message in requests:
            folder, name = os.path.split(message["params"]["output"])
            open(os.path.join(folder, ".{}.{}.partial.tif".format(name[:-4], os.getpid())), "w").close()
            os.kill(os.getpid(), 9)
        """)
    model, other = tmp_path / "model.safetensors", tmp_path / ".other.1.partial.tif"
    model.write_bytes(b"")
    other.write_bytes(b"")
    values = {"MODEL": str(model), "SCENE": [str(SCENE)], "OUTPUT": str(tmp_path / "map.tif")}
    _results, fine = algorithm("predictlandcover").run(values, context, Feedback())
    assert not fine
    assert [path.name for path in tmp_path.glob(".*")] == [other.name]


def test_batch_rows_share_one_worker(requested, stand_in):
    stand_in("""
        send("ready", version="0.0.0")
        for message in requests:
            send("result", id=message["id"], result={**message["params"], "pid": os.getpid()})
        """)
    pids = {
        requested("createtiles", SCENE=[str(SCENE)], SPLIT_SEED=seed, OUTPUT=QgsProcessing.TEMPORARY_OUTPUT)[0]["pid"]
        for seed in range(3)
    }
    assert len(pids) == 1
