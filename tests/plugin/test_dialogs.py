"""The dialogs open, and hold a widget for every parameter."""

from __future__ import annotations

import pytest
from conftest import SAMPLE
from qgis.gui import QgsBrowserGuiModel
from test_provider import IDS


@pytest.fixture
def open_dialog(plugin, qgis_iface, monkeypatch, working_engine):
    """A function from an algorithm's name to its dialog."""
    import processing

    model = QgsBrowserGuiModel()
    monkeypatch.setattr(qgis_iface, "browserModel", lambda: model, raising=False)
    return lambda name: processing.createAlgorithmDialog(f"sparsevit:{name}", {})


@pytest.mark.parametrize("name", IDS)
def test_dialog_holds_every_parameter(open_dialog, name):
    dialog = open_dialog(name)
    tool = dialog.algorithm()
    assert {definition.name() for definition in tool.parameterDefinitions()} == set(dialog.mainWidget().wrappers)
    dialog.close()


@pytest.mark.parametrize("name", ["assessaccuracy", "maplandcover"])
@pytest.mark.parametrize("file", ["reference.tif", "tags.gpkg"])
def test_reference_may_be_raster_or_vector(open_dialog, context, name, file):
    dialog = open_dialog(name)
    path = str(SAMPLE / "virginia" / file)
    reference = dialog.mainWidget().wrappers["REFERENCE"]
    reference.setParameterValue(path, context)
    assert reference.parameterValue() == path
    dialog.close()


def test_dialog_starts_with_the_engines_defaults(open_dialog):
    dialog = open_dialog("trainclassifier")
    wrappers = dialog.mainWidget().wrappers
    assert wrappers["EPOCHS"].parameterValue() == 40
    assert wrappers["LEARNING_RATE"].parameterValue() == 0.001
    assert wrappers["PRESET"].parameterValue() == "tiny"
    dialog.close()
