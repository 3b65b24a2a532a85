"""The environment variables that the engine starts with."""

from __future__ import annotations

# QGIS points these at its own Python, GDAL, PROJ and Qt. An engine that inherits them loads the wrong libraries
# or another installation's PROJ database, and fails in ways that name neither.
_PREFIXES = ("PYTHON", "GDAL_", "PROJ_", "DYLD_", "QT_", "QGIS_", "PIP_")
_NAMES = frozenset({"LD_LIBRARY_PATH", "LD_PRELOAD", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"})


def clean(environment):
    """Take out everything that belongs to QGIS's own Python, GDAL, PROJ and Qt.

    Args:
        environment: A mapping such as `os.environ`; it is not changed.

    Returns:
        The variables for the engine, as a new dict.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not name.upper().startswith(_PREFIXES) and name.upper() not in _NAMES
    }
    kept["PYTHONIOENCODING"] = "utf-8"
    kept["PYTHONSAFEPATH"] = "1"  # no `sparsevit` folder in the working directory may pose as the engine
    # Waiting threads sleep in place of spinning: where QGIS or anything else computes too, spinning costs the engine
    # most of its speed (a small training on 2 cores beside a busy process: 35 s spinning, 13 s sleeping).
    kept.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return kept
