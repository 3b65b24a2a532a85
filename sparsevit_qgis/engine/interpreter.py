"""Find the Python interpreter that the engine is installed in."""

from __future__ import annotations

import functools
import os
import subprocess  # nosec B404

from processing.core.ProcessingConfig import ProcessingConfig
from qgis.core import QgsProcessingException

from ..text import tr
from .environment import clean

SETTING = "SPARSEVIT_PYTHON"  # the name of the Processing setting and of the environment variable
_TIMEOUT_S = 60.0


def find():
    """The engine's interpreter, from the Processing setting or else from the environment.

    Returns:
        The absolute path. Links are kept: a virtual environment is recognised by the link's own place.

    Raises:
        QgsProcessingException: Nothing is set, or what is set is not a program.
    """
    value = (ProcessingConfig.getSetting(SETTING) or os.environ.get(SETTING, "")).strip()
    if not value:
        raise QgsProcessingException(tr("The SparseViT engine is not set up: {}").format(_how_to()))
    path = os.path.abspath(os.path.expanduser(value))
    if os.path.isdir(path):
        names = ("python.exe", os.path.join("Scripts", "python.exe"), os.path.join("bin", "python"))
        path = next((p for p in (os.path.join(path, n) for n in names) if os.path.isfile(p)), path)
    if not (os.path.isfile(path) and os.access(path, os.X_OK)):
        raise QgsProcessingException(
            tr("The SparseViT engine's interpreter '{}' does not exist or is not a program: {}").format(path, _how_to())
        )
    return path


def version(python):
    """The version of the engine that an interpreter holds; asks once per interpreter.

    Raises:
        QgsProcessingException: The interpreter does not start, or holds no engine.
    """
    return _version(python, os.stat(python).st_mtime)


@functools.lru_cache(maxsize=8)
def _version(python, _modified):
    try:
        # No shell; the program is the one that the user set.
        answer = subprocess.run(  # nosec B603
            [python, "-c", "import sparsevit; print(sparsevit.__version__)"],
            env=clean(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            encoding="utf-8",
            errors="replace",
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as err:
        said = (getattr(err, "stderr", None) or str(err)).strip().splitlines()
        raise QgsProcessingException(
            tr("The SparseViT engine does not work in '{}' ({}): {}").format(
                python, said[-1] if said else "", _how_to()
            )
        ) from err
    return answer.stdout.strip()


def _how_to():
    return tr(
        "set the Python interpreter that the engine is installed in under Settings → Options → Processing → "
        "Providers → SparseViT Land Cover, or in the environment variable SPARSEVIT_PYTHON."
    )
