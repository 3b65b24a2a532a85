"""The plugin: registers the Processing provider and closes the engine when it goes."""

from __future__ import annotations

from qgis.core import QgsApplication

from .engine import worker
from .provider import SparseVitProvider


class SparseVitPlugin:
    """What QGIS loads; works with and without a graphical interface.

    Args:
        iface: QGIS's interface, None in `qgis_process`.
    """

    def __init__(self, iface=None):
        self.iface = iface
        self.provider = None

    def initProcessing(self):
        """Register the provider; the only thing that `qgis_process` calls."""
        self.provider = SparseVitProvider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self):
        """Start in the QGIS desktop."""
        self.initProcessing()

    def unload(self):
        """Remove the provider and end the engine's process."""
        if self.provider is not None:
            QgsApplication.processingRegistry().removeProvider(self.provider)
            self.provider = None
        worker.close_all()
