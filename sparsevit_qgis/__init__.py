"""SparseViT Land Cover: land-cover maps from image-level labels, as a Processing provider."""

from __future__ import annotations


def classFactory(iface):
    """Give QGIS the plugin; `iface` is None in `qgis_process`."""
    from .plugin import SparseVitPlugin

    return SparseVitPlugin(iface)
