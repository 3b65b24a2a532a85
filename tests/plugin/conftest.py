"""Real QGIS with the staged plugin, and stand-ins for the engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from qgis.core import QgsApplication, QgsProcessingContext, QgsProcessingFeedback, QgsProject

REPOSITORY = Path(__file__).resolve().parents[2]

# QGIS writes statistics beside the rasters that it opens: not beside those of the repository.
_COPY = tempfile.TemporaryDirectory()
SAMPLE = Path(shutil.copytree(REPOSITORY / "resources" / "sample", Path(_COPY.name) / "sample"))


class Feedback(QgsProcessingFeedback):
    """Remembers what it was told, and cancels after some polls if asked to."""

    def __init__(self, cancel_when=None):
        super().__init__(False)
        self.lines, self.fractions, self.cancel_when = [], [], cancel_when

    def pushInfo(self, text):
        self.lines.append(text)

    pushWarning = pushDebugInfo = pushConsoleInfo = pushInfo

    def setProgressText(self, text):
        self.lines.append(text)

    def isCanceled(self):
        return self.cancel_when is not None and self.cancel_when()


@pytest.fixture(scope="session")
def plugin(qgis_app, qgis_processing):
    """The staged plugin, started as `qgis_process` starts it."""
    from sparsevit_qgis import classFactory

    started = classFactory(None)
    started.initProcessing()
    return started


@pytest.fixture
def provider(plugin):
    """The plugin's provider."""
    return plugin.provider


@pytest.fixture
def algorithm(provider):
    """A function from a name to an algorithm; keep what it returns for as long as you use its parts."""
    return lambda name: QgsApplication.processingRegistry().createAlgorithmById(f"sparsevit:{name}")


@pytest.fixture
def context():
    with_project = QgsProcessingContext()
    with_project.setProject(QgsProject.instance())
    return with_project


@pytest.fixture
def feedback():
    return Feedback()


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A function that makes an interpreter whose engine's worker is the given Python code.

    The code finds `send(event, **fields)` and `requests`, an iterator over the plugin's messages.
    """
    prelude = """
        import json, os, sys, time

        def send(event, **fields):
            sys.stdout.write(json.dumps({"event": event, **fields}) + chr(10))
            sys.stdout.flush()

        requests = map(json.loads, sys.stdin)
        """

    def make(code):
        package = tmp_path / "engine" / "sparsevit"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text("__version__ = '0.0.0'\n")
        (package / "worker.py").write_text(textwrap.dedent(prelude) + textwrap.dedent(code))
        python = tmp_path / "engine" / "python"
        python.write_text(f'#!/bin/sh\nPYTHONPATH="{package.parent}" exec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        monkeypatch.setenv("SPARSEVIT_PYTHON", str(python))
        return str(python)

    return make


@pytest.fixture
def working_engine(stand_in):
    """An engine that answers every job with its own request."""
    return stand_in("""
        send("ready", version="0.0.0")
        for message in requests:
            send("result", id=message["id"], result=message["params"])
        """)


@pytest.fixture(autouse=True)
def _no_worker_left():
    """Workers of one test never serve another."""
    yield
    from sparsevit_qgis.engine import worker

    worker.close_all()


@pytest.fixture(scope="session")
def contract():
    """What the engine says of its jobs: job → field → whether it is required, its default, its bounds and words."""
    python = os.environ.get("SPARSEVIT_PYTHON")
    if not python or not Path(python).exists():
        pytest.skip("SPARSEVIT_PYTHON names no interpreter of the engine; run `make test-plugin`")
    script = Path(__file__).with_name("engine_contract.py")
    answer = subprocess.run([python, str(script)], capture_output=True, check=True, text=True)
    return json.loads(answer.stdout)
