"""The Processing provider: identity, the engine's setting, and the list of algorithms."""

from __future__ import annotations

from processing.core.ProcessingConfig import ProcessingConfig, Setting
from qgis.core import QgsProcessingException, QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .algorithms import ALGORITHMS
from .engine import interpreter
from .text import resource, tr


class SparseVitProvider(QgsProcessingProvider):
    """Land-cover maps from image-level labels."""

    def id(self):
        return "sparsevit"

    def name(self):
        return tr("SparseViT Land Cover")

    def longName(self):
        return tr("SparseViT Land Cover: maps from image-level labels")

    def icon(self):
        return QIcon(self.svgIconPath())

    def svgIconPath(self):
        return resource("icons", "sparsevit.svg")

    def load(self):
        """Add the provider's page to Settings → Options → Processing → Providers, then the algorithms."""
        ProcessingConfig.settingIcons[self.name()] = self.icon()
        ProcessingConfig.addSetting(
            Setting(
                self.name(),
                interpreter.SETTING,
                tr("Python interpreter of the engine (or the folder of its environment)"),
                "",
                valuetype=Setting.FILE,
                placeholder=tr("Taken from the environment variable SPARSEVIT_PYTHON if empty"),
            )
        )
        ProcessingConfig.readSettings()
        self.refreshAlgorithms()
        return True

    def unload(self):
        ProcessingConfig.removeSetting(interpreter.SETTING)

    def loadAlgorithms(self):
        for algorithm in ALGORITHMS:
            self.addAlgorithm(algorithm())

    def warningMessage(self):
        """Say in the toolbox when the engine is not set up."""
        try:
            interpreter.find()
        except QgsProcessingException as err:
            return str(err)
        return ""

    # The engine writes these formats only; QGIS then refuses other file names before a run.

    def supportsNonFileBasedOutput(self):
        return False

    def defaultRasterFileExtension(self):
        return "tif"

    def supportedOutputRasterLayerExtensions(self):
        return ["tif", "tiff"]

    def defaultVectorFileExtension(self, hasGeometry=True):
        return "gpkg"

    def supportedOutputVectorLayerExtensions(self):
        return ["gpkg"]
