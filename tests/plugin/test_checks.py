"""What `checkParameterValues` refuses, and that it says which parameter and what to do."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest
from conftest import SAMPLE
from osgeo import gdal
from qgis.core import (
    QgsFeature,
    QgsProcessing,
    QgsProcessingOutputLayerDefinition,
    QgsProject,
    QgsRasterLayer,
    QgsVectorLayer,
)

SCENE = str(SAMPLE / "virginia" / "s2_10m.tif")
TAGS = str(SAMPLE / "virginia" / "tags.gpkg")
REFERENCE = str(SAMPLE / "virginia" / "reference.tif")
MAP_OUTPUTS = ("LANDCOVER", "CONFIDENCE", "PSEUDOMASK", "TILES", "CLASSIFIER_MODEL", "MODEL", "REPORT")
TEMPORARY = QgsProcessing.TEMPORARY_OUTPUT

pytestmark = pytest.mark.usefixtures("working_engine")


@pytest.fixture
def refusal(algorithm, context):
    """A function from an algorithm's name and values to the reason why it refuses them; empty if it does not."""

    def ask(name, **values):
        fine, message = algorithm(name).checkParameterValues(values, context)
        assert fine == (not message)
        assert "\n" not in message
        return message

    return ask


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"model")
    return str(path)


@pytest.fixture
def index(tmp_path):
    return str(shutil.copy(TAGS, tmp_path / "tiles.gpkg"))


def test_every_algorithm_names_the_missing_engine(plugin, algorithm, context, monkeypatch):
    monkeypatch.setenv("SPARSEVIT_PYTHON", "")
    for listed in plugin.provider.algorithms():
        tool = algorithm(listed.name())
        fine, message = tool.checkParameterValues({}, context)
        assert not fine and "not set up" in message and "Settings" in message and "SPARSEVIT_PYTHON" in message
        assert tool.canExecute() == (False, message)


def test_good_values_are_accepted(refusal, index, model, tmp_path):
    assert refusal("createtiles", SCENE=[SCENE], OUTPUT=TEMPORARY) == ""
    assert refusal("tagtiles", TILES=index, SOURCE="text", FIELD="classes", LAYER=TAGS, OUTPUT=TEMPORARY) == ""
    assert refusal("trainclassifier", TILES=index, OUTPUT=str(tmp_path / "new.safetensors")) == ""
    assert refusal("predictlandcover", MODEL=model, SCENE=[SCENE], OUTPUT=str(tmp_path / "map.tif")) == ""
    assert refusal("assessaccuracy", MAP=REFERENCE, REFERENCE=REFERENCE, OUTPUT=TEMPORARY) == ""
    assert refusal("vectorizelandcover", MAP=REFERENCE, OUTPUT=TEMPORARY) == ""
    assert refusal("checkengine") == ""


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"SCENE": ["/nowhere/a.tif"]}, "Scene (SCENE): '/nowhere/a.tif' does not exist"),
        ({"SCENE": [SCENE, "/nowhere/b.tif"]}, "'/nowhere/b.tif' does not exist"),
        ({"SCENE": [SCENE], "SCENES": 1}, "no parameter SCENES; did you mean SCENE?"),
        ({"SCENE": [SCENE], "TILE_SIZE_M": -1}, "Tile size (m) (TILE_SIZE_M): -1 is too small"),
        ({"SCENE": [SCENE], "VALIDATION_SHARE": 2}, "2 is too large, 1 is the largest value"),
        (
            {"SCENE": [SCENE], "LAYOUT": "dfc2021"},
            "Layout (LAYOUT): 'dfc2021' is not one of scene, dfc2020, bigearthnet",
        ),
        ({"SCENE": [SCENE], "LAYOUT": "dfc2020"}, "SCENE) does not go with the layout 'dfc2020'"),
        ({"LAYOUT": "dfc2020"}, "Folder of patches (FOLDER) is needed"),
        ({"LAYOUT": "dfc2020", "FOLDER": "/nowhere"}, "folder '/nowhere' does not exist"),
        ({}, "Scene (SCENE) is needed"),
        ({"SCENE": [SCENE], "EXTENT": "0,1,0,1 [EPSG:32618]"}, "Extent (EXTENT): the rectangle lies outside"),
        (
            {"SCENE": [SCENE], "FOOTPRINTS": "/nowhere/f.gpkg"},
            "Footprints (FOOTPRINTS): '/nowhere/f.gpkg' does not exist",
        ),
        (
            {"SCENE": [SCENE], "OUTPUT": "/nowhere/t.gpkg"},
            "Tiles (OUTPUT): folder '/nowhere' does not exist; make it first",
        ),
        ({"SCENE": [SCENE], "OUTPUT": "/tmp/t.shp"}, ".shp"),
    ],
)
def test_createtiles_refuses(refusal, values, expected):
    assert expected in refusal("createtiles", **{"OUTPUT": TEMPORARY, **values})


def test_damaged_raster_is_named(refusal, tmp_path):
    damaged = tmp_path / "damaged.tif"
    damaged.write_bytes(b"not a raster")
    message = refusal("createtiles", SCENE=[str(damaged)], OUTPUT=TEMPORARY)
    assert str(damaged) in message and "cannot be read as a raster" in message


def test_raster_without_coordinate_system_is_refused(refusal, tmp_path):
    bare = tmp_path / "bare.tif"
    gdal.GetDriverByName("GTiff").Create(str(bare), 4, 4, 1)
    assert "no coordinate system" in refusal("createtiles", SCENE=[str(bare)], OUTPUT=TEMPORARY)


def test_layers_that_are_not_files_are_refused(refusal, tmp_path):
    web = QgsRasterLayer("type=xyz&url=https://example.org/{z}/{x}/{y}.png", "web map", "wms")
    assert "'web map' is not a raster file" in refusal("createtiles", SCENE=[web], OUTPUT=TEMPORARY)
    memory = QgsVectorLayer("Polygon?crs=EPSG:32618", "scratch", "memory")
    assert "is not a GeoPackage" in refusal("trainclassifier", TILES=memory, OUTPUT=TEMPORARY)


def test_unsaved_edits_are_refused(refusal, index):
    layer = QgsVectorLayer(index, "tiles", "ogr")
    layer.startEditing()
    layer.addFeature(QgsFeature(layer.fields()))
    assert "edits that are not saved" in refusal("trainclassifier", TILES=layer, OUTPUT=TEMPORARY)


def test_tags_are_not_written_into_a_layer_that_is_edited(refusal, index):
    """Even with all edits saved: QGIS would bring back pages of the old file."""
    layer = QgsVectorLayer(index, "tiles", "ogr")
    values = {"TILES": layer, "SOURCE": "text", "FIELD": "classes"}
    assert refusal("tagtiles", **values) == ""
    layer.startEditing()
    assert "Tile index (TILES): layer 'tiles' is being edited" in refusal("tagtiles", **values)
    nothing = QgsProcessingOutputLayerDefinition("", QgsProject.instance())  # as a batch dialog says it
    assert "is being edited" in refusal("tagtiles", **values, OUTPUT=nothing)
    assert refusal("tagtiles", **values, OUTPUT=TEMPORARY) == ""
    layer.rollBack()


def test_rasters_inside_archives_are_refused(refusal, tmp_path):
    archive = tmp_path / "scene.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(SCENE, "s2.tif")
    layer = QgsRasterLayer(f"/vsizip/{archive}/s2.tif", "zipped")
    assert layer.isValid()
    assert "'zipped' is not a raster file" in refusal("createtiles", SCENE=[layer], OUTPUT=TEMPORARY)


def test_patches_may_name_their_own_rasters_with_the_tags(refusal, index):
    assert refusal("tagtiles", TILES=index, SOURCE="raster", FIELD="classes", OUTPUT=TEMPORARY) == ""
    outputs = dict.fromkeys(MAP_OUTPUTS, TEMPORARY)
    assert "Tag raster (RASTER) is needed" in refusal("maplandcover", SCENE=[SCENE], SOURCE="raster", **outputs)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"SOURCE": "raster", "RASTER": REFERENCE, "FIELD": "classes"},
            "Tag field (FIELD) does not go with tags of the kind 'raster'",
        ),
        (
            {"SOURCE": "raster", "RASTER": REFERENCE, "LAYER": TAGS},
            "Tag layer (LAYER) does not go with tags of the kind 'raster'",
        ),
        ({"SOURCE": "vector", "LAYER": TAGS}, "Tag field (FIELD) is needed"),
        ({"SOURCE": "vector", "FIELD": "classes"}, "Tag layer (LAYER) is needed"),
        ({"SOURCE": "text"}, "Tag field (FIELD) is needed"),
        ({"SOURCE": "text", "FIELD": "klasses", "LAYER": TAGS}, "has no field 'klasses'; it has:"),
        ({"SOURCE": "text", "FIELD": "classes", "RASTER": REFERENCE}, "Tag raster (RASTER) does not go with"),
        (
            {"SOURCE": "text", "FIELD": "classes", "SCHEME": "/nowhere/s.json"},
            "Class scheme (SCHEME): file '/nowhere/s.json'",
        ),
    ],
)
def test_tagtiles_refuses(refusal, index, values, expected):
    assert expected in refusal("tagtiles", TILES=index, OUTPUT=TEMPORARY, **values)


def test_map_needs_a_layer_for_text(refusal):
    outputs = dict.fromkeys(MAP_OUTPUTS, TEMPORARY)
    assert "Tag layer (LAYER) is needed" in refusal("maplandcover", SCENE=[SCENE], FIELD="classes", **outputs)
    assert refusal("maplandcover", SCENE=[SCENE], LAYER=TAGS, FIELD="classes", **outputs) == ""


def test_report_and_reference_of_a_map_go_together(refusal, tmp_path):
    values = {"SCENE": [SCENE], "LAYER": TAGS, "FIELD": "classes", **dict.fromkeys(MAP_OUTPUTS, TEMPORARY)}
    report = str(tmp_path / "report.html")
    assert "Reference (REFERENCE) is needed" in refusal("maplandcover", **{**values, "REPORT": report})
    assert "Report (REPORT) is needed" in refusal("maplandcover", **{**values, "REPORT": None, "REFERENCE": REFERENCE})
    assert refusal("maplandcover", **{**values, "REPORT": report, "REFERENCE": REFERENCE}) == ""
    fieldless = refusal("maplandcover", **{**values, "REPORT": report, "REFERENCE": TAGS})
    assert "Reference field (REFERENCE_FIELD): choose the class field" in fieldless


def test_wrong_suffix_is_refused(refusal, index, model, tmp_path):
    assert "must end with .safetensors" in refusal("trainclassifier", TILES=index, OUTPUT=str(tmp_path / "model.pt"))
    assert "MODEL" in refusal("predictlandcover", MODEL=SCENE, SCENE=[SCENE], OUTPUT=TEMPORARY)


def test_output_must_not_be_an_input_or_another_output(refusal, model, tmp_path):
    one = str(tmp_path / "one.tif")
    assert "is also Scene (SCENE)" in refusal("predictlandcover", MODEL=model, SCENE=[SCENE], OUTPUT=SCENE)
    again = refusal("predictlandcover", MODEL=model, SCENE=[SCENE], OUTPUT=one, CONFIDENCE=f"{tmp_path}/./one.tif")
    assert "is also Land cover (OUTPUT)" in again


def test_resume_needs_checkpoints(refusal, index, model):
    training = {"TILES": index, "RESUME": True, "OUTPUT": TEMPORARY}
    assert "Checkpoints (CHECKPOINTS) is needed" in refusal("trainclassifier", **training)
    refinement = training | {"CLASSIFIER": model, "PSEUDOMASK_FOLDER": str(Path(index).parent)}
    assert "Checkpoints (CHECKPOINTS) is needed" in refusal("refinelandcover", **refinement)


def test_pseudomasks_need_a_scene_or_an_index(refusal, model):
    assert "SCENE" in refusal("generatepseudomasks", MODEL=model, OUTPUT=TEMPORARY)


def test_refine_needs_one_pseudomask(refusal, index, model):
    assert "PSEUDOMASK" in refusal("refinelandcover", TILES=index, CLASSIFIER=model, OUTPUT=TEMPORARY)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "MAP"),
        ({"MAP": "/nowhere/map.tif"}, "Map (MAP): '/nowhere/map.tif' does not exist"),
        ({"MAP": TAGS}, "Map (MAP): "),
        ({"MAP": REFERENCE, "CONFIDENCE": "/nowhere/c.tif"}, "Confidence (CONFIDENCE): '/nowhere/c.tif' does not"),
        ({"MAP": REFERENCE, "SIMPLIFY_M": -1}, "Simplification (m) (SIMPLIFY_M): -1 is too small"),
        ({"MAP": REFERENCE, "MINIMUM_MAPPING_UNIT_M2": -1}, "(MINIMUM_MAPPING_UNIT_M2): -1 is too small"),
        ({"MAP": REFERENCE, "CONNECTIVITY": "6"}, "Connectivity (CONNECTIVITY): '6' is not one of 4, 8"),
        ({"MAP": REFERENCE, "OUTPUT": "/tmp/o.shp"}, "must end with .gpkg"),
    ],
)
def test_vectorizelandcover_refuses(refusal, values, expected):
    assert expected in refusal("vectorizelandcover", **{"OUTPUT": TEMPORARY, **values})


def test_vector_reference_needs_its_field(refusal):
    message = refusal("assessaccuracy", MAP=REFERENCE, REFERENCE=TAGS, OUTPUT=TEMPORARY)
    assert "choose the class field" in message and "classes" in message
