"""How results appear in the layer tree."""

from __future__ import annotations

import gc
import shutil

import pytest
from conftest import SAMPLE
from qgis.core import (
    QgsCategorizedSymbolRenderer,
    QgsFillSymbol,
    QgsLayerTreeRegistryBridge,
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingUtils,
    QgsProject,
    QgsRendererCategory,
    QgsSingleBandPseudoColorRenderer,
    QgsVectorLayer,
)


@pytest.fixture
def project():
    QgsProject.instance().clear()
    yield QgsProject.instance()
    QgsProject.instance().clear()


@pytest.fixture
def load(project, algorithm, tmp_path, monkeypatch):
    """A function that loads results as the Processing dialog does."""
    from processing.gui import Postprocessing

    from sparsevit_qgis.algorithms import layers

    # QGIS 3.44 fills the view of its window, which there is none of here.
    monkeypatch.setattr(Postprocessing, "iface", None, raising=False)

    def show(name, results):
        tool = algorithm(name)
        context = QgsProcessingContext()
        context.setProject(project)
        outputs = {}
        for output, source in results.items():
            path = str(shutil.copy(source, tmp_path / f"{output}{source.suffix}"))
            kind = QgsProcessingUtils.LayerHint.UnknownType
            details = QgsProcessingContext.LayerDetails(output, project, output, kind)
            context.addLayerToLoadOnCompletion(path, details)
            outputs[output] = path
        layers.arrange(tool, outputs, context)
        gc.collect()
        assert Postprocessing.handleAlgorithmResults(tool, context, QgsProcessingFeedback(), parameters={})
        return tool

    return show


CLASSES = SAMPLE / "virginia" / "reference.tif"
SCENE = SAMPLE / "terramesh" / "s1.tif"
TAGS = SAMPLE / "virginia" / "tags.gpkg"


def test_results_of_one_run_are_grouped_with_tiles_on_top(load, project):
    load("maplandcover", {"LANDCOVER": CLASSES, "PSEUDOMASK": CLASSES, "TILES": TAGS})
    (group,) = project.layerTreeRoot().children()
    assert group.name() == "Map land cover from tags"
    assert [child.name() for child in group.children()] == ["TILES", "LANDCOVER", "PSEUDOMASK"]


def test_order_holds_where_qgis_adds_layers_to_the_group_itself(load, project):
    group = project.layerTreeRoot().addGroup("Map land cover from tags")
    bridge = project.layerTreeRegistryBridge()
    bridge.setLayerInsertionPoint(QgsLayerTreeRegistryBridge.InsertionPoint(group, 0))
    load("maplandcover", {"LANDCOVER": CLASSES, "PSEUDOMASK": CLASSES, "TILES": TAGS})
    bridge.setLayerInsertionPoint(QgsLayerTreeRegistryBridge.InsertionPoint(project.layerTreeRoot(), 0))
    assert [child.name() for child in group.children()] == ["TILES", "LANDCOVER", "PSEUDOMASK"]


def test_single_result_needs_no_group(load, project):
    load("createtiles", {"OUTPUT": TAGS})
    assert [child.name() for child in project.layerTreeRoot().children()] == ["OUTPUT"]


def test_tiles_are_outlines(load, project):
    load("createtiles", {"OUTPUT": TAGS})
    (layer,) = project.mapLayers().values()
    assert layer.renderer().symbol().symbolLayer(0).properties()["style"] == "no"


def test_confidence_is_coloured_from_0_to_1(load, project, tmp_path, qgis_processing):
    import processing

    confidence = tmp_path / "float.tif"
    processing.run("gdal:translate", {"INPUT": str(CLASSES), "DATA_TYPE": 6, "OUTPUT": str(confidence)})
    load("predictlandcover", {"CONFIDENCE": confidence})
    (layer,) = project.mapLayers().values()
    assert isinstance(layer.renderer(), QgsSingleBandPseudoColorRenderer)
    assert (layer.renderer().classificationMin(), layer.renderer().classificationMax()) == (0.0, 1.0)


def test_a_single_head_is_not_coloured_as_a_share(load, project, tmp_path, qgis_processing):
    """Its attention is a multiple of the mean of a tile."""
    import processing

    head = tmp_path / "head.tif"
    processing.run("gdal:translate", {"INPUT": str(CLASSES), "DATA_TYPE": 6, "OUTPUT": str(head)})
    load("inspectheads", {"OUTPUT": head})
    (layer,) = project.mapLayers().values()
    assert not isinstance(layer.renderer(), QgsSingleBandPseudoColorRenderer)


def test_style_inside_a_file_is_kept(load, project, tmp_path):
    styled = tmp_path / "styled.gpkg"
    shutil.copy(TAGS, styled)
    category = QgsRendererCategory("Forest", QgsFillSymbol(), "Forest")
    layer = QgsVectorLayer(str(styled), "styled", "ogr")
    layer.setRenderer(QgsCategorizedSymbolRenderer("classes", [category]))
    layer.saveStyleToDatabase("mine", "", True, "")
    del layer  # closes the file, which is copied
    load("vectorizelandcover", {"OUTPUT": styled})
    (shown,) = project.mapLayers().values()
    assert shown.renderer().type() == "categorizedSymbol" and shown.renderer().classAttribute() == "classes"
