"""Every algorithm with the real engine, as `processing.run` and the batch dialog start it."""

from __future__ import annotations

import os

import pytest
from conftest import SAMPLE, Feedback
from qgis.core import QgsProject, QgsRasterLayer, QgsVectorLayer

# 7 × 4 tagged squares of the sample, with six classes.
EXTENT = "443930,448410,4171140,4173700 [EPSG:32618]"
TINY = {"EPOCHS": 1, "GATE_EPOCHS": 1, "FINETUNE_EPOCHS": 1, "SPECTRAL_EPOCHS": 1, "CONTROLS": False}


@pytest.fixture(scope="module")
def steps(plugin, tmp_path_factory):
    """The results of every algorithm, run once in order by `processing.run`."""
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
    done = {"folder": folder, "scene": scene}
    for name, values in (
        ("checkengine", {}),
        ("createtiles", {"SCENE": [scene], "BLOCK_SIZE_M": 1280, "GAP_M": 0, "OUTPUT": tiles}),
        ("createtiles", {"SCENE": [scene], "BLOCK_SIZE_M": 1280, "GAP_M": 0, "OUTPUT": untagged}),
        ("tagtiles", {"TILES": tiles, "SOURCE": "text", "LAYER": tags, "FIELD": "classes"}),
        ("trainclassifier", {"TILES": tiles, "OUTPUT": classifier, **TINY}),
        ("suggesttiles", {"TILES": untagged, "CLASSIFIER": classifier, "OUTPUT": str(folder / "ranked.gpkg")}),
        ("generatepseudomasks", {"TILES": tiles, "MODEL": classifier, "OUTPUT": pseudomask}),
        (
            "refinelandcover",
            {
                "TILES": tiles,
                "CLASSIFIER": classifier,
                "PSEUDOMASK": pseudomask,
                "ROUNDS": 1,
                "REFINE_EPOCHS": 1,
                "OUTPUT": model,
            },
        ),
        ("predictlandcover", {"SCENE": [scene], "MODEL": model, "OUTPUT": landcover}),
        (
            "assessaccuracy",
            {"MAP": landcover, "REFERENCE": pseudomask, "OUTPUT": str(folder / "report.html")},
        ),
        ("inspectheads", {"SCENE": [scene], "MODEL": model, "OUTPUT": str(folder / "heads.tif")}),
        (
            "studyheads",
            {
                "TILES": tiles,
                "REFERENCE": landcover,
                "SHARES": "0.5, 0.2",
                "SEEDS": 1,
                "OUTPUT": str(folder / "study.html"),
                **{name: value for name, value in TINY.items() if name != "CONTROLS"},
            },
        ),
        ("vectorizelandcover", {"MAP": landcover, "OUTPUT": str(folder / "landcover.gpkg")}),
    ):
        done[name] = processing.run(f"sparsevit:{name}", values, feedback=Feedback())
    return done


def test_results_are_what_each_algorithm_declares(steps, algorithm):
    for name, results in steps.items():
        if name in ("folder", "scene"):
            continue
        tool = algorithm(name)
        declared = {output.name() for output in tool.outputDefinitions()}
        assert set(results) <= declared
        assert {number for number, _field, _label in tool.numbers()} <= set(results)


def test_map_opens_with_its_legend(steps):
    layer = QgsRasterLayer(steps["predictlandcover"]["OUTPUT"], "map")
    named = {entry.value: entry.label for entry in layer.renderer().classes()}
    assert named[1] == "Forest" and named[10] == "Water"
    assert layer.dataProvider().sourceNoDataValue(1) == 255


def test_heads_open_with_what_they_speak_for(steps):
    layer = QgsRasterLayer(steps["inspectheads"]["OUTPUT"], "heads")
    assert layer.bandCount() == 7
    assert all("gate" in layer.dataProvider().generateBandName(band) for band in range(1, 8))


def test_polygons_open_with_the_colours_of_the_classes(steps):
    layer = QgsVectorLayer(steps["vectorizelandcover"]["OUTPUT"], "polygons", "ogr")
    assert layer.featureCount() == steps["vectorizelandcover"]["POLYGONS"] > 0
    _message, found = layer.loadDefaultStyle()
    assert found and layer.renderer().type() == "categorizedSymbol"
    named = {int(c.value()): (c.label(), c.symbol().color().name()) for c in layer.renderer().categories()}
    assert named[1] == ("Forest", "#009900") and named[10] == ("Water", "#1c0dff")
    shown = layer.renderer()
    assert all(shown.categoryIndexForValue(feature["code"]) >= 0 for feature in layer.getFeatures())


def test_rows_of_a_batch_run_in_one_worker(steps, context, algorithm):
    from processing.gui.AlgorithmExecutor import execute

    from sparsevit_qgis.engine import worker

    workers = set()
    for row in (1, 2):
        tool = algorithm("predictlandcover")
        values = {
            "SCENE": [steps["scene"]],
            "MODEL": steps["refinelandcover"]["OUTPUT"],
            "OUTPUT": str(steps["folder"] / f"row{row}.tif"),
        }
        fine, message = tool.checkParameterValues(values, context)
        assert fine, message
        fine, results = execute(tool, values, context, Feedback())
        assert fine and os.path.isfile(results["OUTPUT"])
        workers |= set(worker._idle.values())
    assert len(workers) == 1


def test_one_step_from_layers_of_the_project(steps):
    import processing

    scene = QgsRasterLayer(steps["scene"], "my scene")
    QgsProject.instance().addMapLayer(scene)
    outputs = ("LANDCOVER", "CONFIDENCE", "PSEUDOMASK", "TILES", "CLASSIFIER_MODEL", "MODEL")
    results = processing.run(
        "sparsevit:maplandcover",
        {
            "SCENE": [scene],
            "LAYER": str(SAMPLE / "virginia" / "tags.gpkg"),
            "FIELD": "classes",
            "BLOCK_SIZE_M": 1280,
            "GAP_M": 0,
            "ROUNDS": 1,
            "REFINE_EPOCHS": 1,
            **TINY,
            **dict.fromkeys(outputs, "TEMPORARY_OUTPUT"),
        },
        feedback=Feedback(),
    )
    QgsProject.instance().clear()
    assert all(os.path.isfile(results[name]) for name in outputs)
    assert results["HEADS_KEPT"] == 7 and results["HEADS_TOTAL"] == 24
    assert results["MIOU"] is None  # without a reference there is none
