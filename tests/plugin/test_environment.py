"""What the engine inherits from QGIS's environment, and where its interpreter is looked for."""

from __future__ import annotations

import os
import sys

import pytest
from qgis.core import QgsProcessingException


def test_variables_of_qgis_do_not_reach_the_engine(provider):
    from sparsevit_qgis.engine.environment import clean

    dirty = {
        "PYTHONHOME": "/q",
        "PYTHONPATH": "/q",
        "GDAL_DATA": "/q",
        "PROJ_LIB": "/q",
        "LD_LIBRARY_PATH": "/q",
        "LD_PRELOAD": "/q",
        "DYLD_LIBRARY_PATH": "/q",
        "QT_PLUGIN_PATH": "/q",
        "QGIS_PREFIX_PATH": "/q",
        "VIRTUAL_ENV": "/q",
        "PIP_TARGET": "/q",
    }
    kept = clean({**dirty, "HOME": "/h", "CUDA_VISIBLE_DEVICES": "0", "SPARSEVIT_CACHE": "/c"})
    assert kept == {
        "HOME": "/h",
        "CUDA_VISIBLE_DEVICES": "0",
        "SPARSEVIT_CACHE": "/c",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONSAFEPATH": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def test_setting_comes_before_the_environment(provider, monkeypatch):
    from processing.core.ProcessingConfig import ProcessingConfig

    from sparsevit_qgis.engine import interpreter

    provider.load()
    monkeypatch.setenv("SPARSEVIT_PYTHON", "/nowhere/python")
    monkeypatch.setattr(ProcessingConfig.settings["SPARSEVIT_PYTHON"], "value", sys.executable)
    assert interpreter.find() == os.path.abspath(sys.executable)


def test_folder_of_an_environment_will_do(provider, monkeypatch, tmp_path):
    from sparsevit_qgis.engine import interpreter

    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    monkeypatch.setenv("SPARSEVIT_PYTHON", str(tmp_path))
    assert interpreter.find() == str(python)


@pytest.mark.parametrize("value", ["", "/nowhere/python", __file__])
def test_missing_interpreter_is_named_with_the_way_to_set_it(provider, monkeypatch, value):
    from sparsevit_qgis.engine import interpreter

    monkeypatch.setenv("SPARSEVIT_PYTHON", value)
    with pytest.raises(QgsProcessingException, match=r"SPARSEVIT_PYTHON") as caught:
        interpreter.find()
    assert value in str(caught.value)


def test_interpreter_without_engine_is_named_with_the_reason(provider):
    from sparsevit_qgis.engine import interpreter

    with pytest.raises(QgsProcessingException, match=r"No module named 'sparsevit'"):
        interpreter.version(sys.executable)
