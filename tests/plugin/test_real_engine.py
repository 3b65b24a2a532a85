"""Every algorithm with the real engine, as `processing.run` and the batch dialog start it."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from conftest import SAMPLE, Feedback
from qgis.core import QgsProject, QgsRasterLayer, QgsVectorLayer
from qgis.gui import QgsBrowserGuiModel
from test_provider import IDS

# 7 × 4 tagged squares of the sample, with six classes.
EXTENT = "443930,448410,4171140,4173700 [EPSG:32618]"
MAP_OUTPUTS = {
    "LANDCOVER": ".tif",
    "CONFIDENCE": ".tif",
    "PSEUDOMASK": ".tif",
    "TILES": ".gpkg",
    "CLASSIFIER_MODEL": ".safetensors",
    "MODEL": ".safetensors",
}
PHASES = {"EPOCHS": 1, "GATE_EPOCHS": 1, "FINETUNE_EPOCHS": 1, "SPECTRAL_EPOCHS": 1}
TINY = PHASES | {"HEADS_KEPT": 0.3, "CONTROLS": False}


@pytest.fixture(scope="module")
def steps(plugin, tmp_path_factory):
    """Values of every algorithm, and the results of all single steps, run once in order by `processing.run`."""
    import processing

    python = os.environ.get("SPARSEVIT_PYTHON")
    if not python or not os.path.exists(python):
        pytest.skip("SPARSEVIT_PYTHON names no interpreter of the engine; run `make test-plugin`")
    folder = tmp_path_factory.mktemp("steps")
    scene = str(folder / "scene.tif")
    source = str(SAMPLE / "virginia" / "s2_10m.tif")
    processing.run("gdal:cliprasterbyextent", {"INPUT": source, "PROJWIN": EXTENT, "OUTPUT": scene})
    tags = str(SAMPLE / "virginia" / "tags.gpkg")
    tiles, untagged, classifier = (str(folder / n) for n in ("tiles.gpkg", "untagged.gpkg", "classifier.safetensors"))
    pseudomask, model, landcover = (str(folder / n) for n in ("pseudomask.tif", "model.safetensors", "landcover.tif"))
    values = {
        "checkengine": {},
        "createtiles": {"SCENE": [scene], "BLOCK_SIZE_M": 1280, "GAP_M": 0, "OUTPUT": tiles},
        "tagtiles": {"TILES": tiles, "SOURCE": "text", "LAYER": tags, "FIELD": "classes"},
        "reviewtags": {"TILES": tiles, "REVIEW_EPOCHS": 1, "OUTPUT": str(folder / "reviewed.gpkg")},
        "trainclassifier": {"TILES": tiles, "OUTPUT": classifier, **TINY},
        "suggesttiles": {"TILES": untagged, "CLASSIFIER": classifier, "OUTPUT": str(folder / "ranked.gpkg")},
        "generatepseudomasks": {"TILES": tiles, "MODEL": classifier, "OUTPUT": pseudomask},
        "refinelandcover": {
            "TILES": tiles,
            "CLASSIFIER": classifier,
            "PSEUDOMASK": pseudomask,
            "ROUNDS": 1,
            "REFINE_EPOCHS": 1,
            "OUTPUT": model,
        },
        "predictlandcover": {"SCENE": [scene], "MODEL": model, "OUTPUT": landcover},
        "assessaccuracy": {"MAP": landcover, "REFERENCE": pseudomask, "OUTPUT": str(folder / "report.html")},
        "inspectheads": {"SCENE": [scene], "MODEL": model, "OUTPUT": str(folder / "heads.tif")},
        "studyheads": {
            "TILES": tiles,
            "REFERENCE": landcover,
            "SHARES": "0.5, 0.2",
            "SEEDS": 1,
            "OUTPUT": str(folder / "study.html"),
            **PHASES,
        },
        "vectorizelandcover": {"MAP": landcover, "OUTPUT": str(folder / "landcover.gpkg")},
        "maplandcover": {
            "SCENE": [scene],
            "LAYER": tags,
            "FIELD": "classes",
            "BLOCK_SIZE_M": 1280,
            "GAP_M": 0,
            "ROUNDS": 1,
            "REFINE_EPOCHS": 1,
            **TINY,
            **{name: str(folder / f"map_{name.lower()}{suffix}") for name, suffix in MAP_OUTPUTS.items()},
        },
    }
    processing.run("sparsevit:createtiles", values["createtiles"] | {"OUTPUT": untagged}, feedback=Feedback())
    names = [name for name in values if name != "maplandcover"]
    results = {n: processing.run(f"sparsevit:{n}", values[n], feedback=Feedback()) for n in names}
    return SimpleNamespace(folder=folder, scene=scene, values=values, results=results)


def test_results_are_what_each_algorithm_declares(steps, algorithm):
    assert {*steps.results, "maplandcover"} == set(IDS)
    for name, results in steps.results.items():
        tool = algorithm(name)
        declared = {output.name() for output in tool.outputDefinitions()}
        assert set(results) <= declared
        assert {number for number, _field, _label in tool.numbers()} <= set(results)


def test_map_opens_with_its_legend(steps):
    layer = QgsRasterLayer(steps.results["predictlandcover"]["OUTPUT"], "map")
    named = {entry.value: entry.label for entry in layer.renderer().classes()}
    assert named[1] == "Forest" and named[10] == "Water"
    assert layer.dataProvider().sourceNoDataValue(1) == 255


def test_heads_open_with_what_they_speak_for(steps):
    layer = QgsRasterLayer(steps.results["inspectheads"]["OUTPUT"], "heads")
    assert layer.bandCount() == 7
    assert all("gate" in layer.dataProvider().generateBandName(band) for band in range(1, 8))


def test_polygons_open_with_the_colours_of_the_classes(steps):
    layer = QgsVectorLayer(steps.results["vectorizelandcover"]["OUTPUT"], "polygons", "ogr")
    assert layer.featureCount() == steps.results["vectorizelandcover"]["POLYGONS"] > 0
    _message, found = layer.loadDefaultStyle()
    assert found and layer.renderer().type() == "categorizedSymbol"
    named = {int(c.value()): (c.label(), c.symbol().color().name()) for c in layer.renderer().categories()}
    assert named[1] == ("Forest", "#009900") and named[10] == ("Water", "#1c0dff")
    shown = layer.renderer()
    assert all(shown.categoryIndexForValue(feature["code"]) >= 0 for feature in layer.getFeatures())


@pytest.mark.parametrize("name", IDS)
def test_batch_dialog_runs_every_row(steps, algorithm, context, qgis_iface, monkeypatch, name):
    from processing.gui.BatchAlgorithmDialog import BatchAlgorithmDialog

    from sparsevit_qgis.engine import worker

    model = QgsBrowserGuiModel()
    monkeypatch.setattr(qgis_iface, "browserModel", lambda: model, raising=False)
    tool, ends = algorithm(name), []
    dialog = BatchAlgorithmDialog(tool.create())
    panel = dialog.mainWidget()
    outputs = {output.name() for output in tool.destinationParameterDefinitions()}
    panel.addRow()
    for row in (0, 1):
        for key, value in steps.values[name].items():
            column = panel.parameter_to_column[key]
            if key in outputs:
                value = str(steps.folder / f"row{row}_{os.path.basename(value)}")
                panel.tblParameters.cellWidget(row + 1, column).setValue(value)
            else:
                panel.wrappers[row][column].setParameterValue(value, context)
    monkeypatch.setattr(dialog, "finish", lambda results, errors: ends.append((results, errors)))
    dialog.runAlgorithm()
    workers = list(worker._idle.values())
    dialog.close()
    ((rows, errors),) = ends
    assert not errors and len(rows) == 2
    assert len(workers) == 1
    for row, end in enumerate(rows):
        assert {number for number, _field, _label in tool.numbers()} <= set(end["results"])
        for key in outputs & set(steps.values[name]):
            assert os.path.basename(end["results"][key]).startswith(f"row{row}_")
            assert os.path.getsize(end["results"][key]) > 0


def test_one_step_from_layers_of_the_project(steps):
    import processing

    scene = QgsRasterLayer(steps.scene, "my scene")
    QgsProject.instance().addMapLayer(scene)
    values = steps.values["maplandcover"] | {"SCENE": [scene]} | dict.fromkeys(MAP_OUTPUTS, "TEMPORARY_OUTPUT")
    results = processing.run("sparsevit:maplandcover", values, feedback=Feedback())
    QgsProject.instance().clear()
    assert all(os.path.isfile(results[name]) for name in MAP_OUTPUTS)
    assert results["HEADS_KEPT"] == 7 and results["HEADS_TOTAL"] == 24
    assert results["MIOU"] is None  # without a reference there is none
