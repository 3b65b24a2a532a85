"""Translation and the places of the files that come with the plugin."""

from __future__ import annotations

import os

from qgis.PyQt.QtCore import QCoreApplication

_RESOURCES = os.path.join(os.path.dirname(__file__), "resources")


def tr(text):
    """Translate a text that users see."""
    return QCoreApplication.translate("SparseViT", text)


def resource(*parts):
    """The absolute path of a file that comes with the plugin."""
    return os.path.join(_RESOURCES, *parts)
