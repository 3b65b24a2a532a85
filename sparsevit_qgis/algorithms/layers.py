"""How results appear in QGIS: grouped, in a sensible order, and with a legend.

Class rasters need nothing: their colours and class names are inside the file. A layer of class polygons carries its
style too. A post-processor does the rest, as a bonus for the desktop; `qgis_process` never calls it.
"""

from __future__ import annotations

from collections import deque

from qgis.core import (
    QgsColorRampShader,
    QgsFillSymbol,
    QgsMapLayerType,
    QgsProcessingLayerPostProcessorInterface,
    QgsSingleBandPseudoColorRenderer,
    QgsSingleSymbolRenderer,
    QgsStyle,
)

# QGIS does not keep a Python post-processor alive; a collected one is called as an empty C++ base, without an error.
_alive = deque(maxlen=256)
_RANK = "sparsevit/rank"


class _Arranger(QgsProcessingLayerPostProcessorInterface):
    """Styles one result and moves it into the group of its run.

    Args:
        group: Name of the group in the layer tree; none if empty.
        rank: Place in the group, 0 is the top.
        is_share: Whether a raster holds values from 0 to 1.
    """

    def __init__(self, group, rank, is_share):
        super().__init__()
        self._group, self._rank, self._is_share = group, rank, is_share

    def postProcessLayer(self, layer, context, feedback):
        if layer.type() == QgsMapLayerType.VectorLayer:
            _style(layer)
        elif self._is_share:
            _colour_shares(layer)
        if self._group and context.project() is not None:
            self._move(layer, context.project().layerTreeRoot())

    def _move(self, layer, root):
        node = root.findLayer(layer.id())
        group = root.findGroup(self._group) or root.insertGroup(0, self._group)
        # QGIS adds a layer above the current one: that may be in this group already, or in a group of the user's own.
        if node is None or node.parent() not in (root, group):
            return
        parent, moved = node.parent(), node.clone()
        moved.setExpanded(True)
        moved.setCustomProperty(_RANK, self._rank)
        above = [
            index
            for index, child in enumerate(group.children())
            if child != node and int(child.customProperty(_RANK, 0)) < self._rank
        ]
        group.insertChildNode(max(above, default=-1) + 1, moved)
        parent.removeChildNode(node)  # last: QGIS takes a layer without a node out of the project


def arrange(algorithm, outputs, context):
    """Have the layers of a run grouped, ordered and styled when QGIS loads them.

    Args:
        algorithm: The algorithm that wrote them.
        outputs: Output name → path, as the algorithm returns it.
        context: The run's `QgsProcessingContext`.
    """
    loaded = [(name, path) for name, path in outputs.items() if context.willLoadLayerOnCompletion(path)]
    # Outlines of tiles lie above the rasters; these keep the order of the dialog.
    loaded.sort(key=lambda item: algorithm.parameterDefinition(item[0]).type() != "vectorDestination")
    group = algorithm.displayName() if len(loaded) > 1 else ""
    for rank, (name, path) in enumerate(loaded):
        details = context.layerToLoadOnCompletionDetails(path)
        sorts = hasattr(details, "groupName")  # newer than 3.22: QGIS groups and sorts by itself
        if sorts:
            details.groupName, details.layerSortKey = group, -rank
        arranger = _Arranger("" if sorts else group, rank, name == "CONFIDENCE")
        _alive.append(arranger)
        details.setPostProcessor(arranger)


def _style(layer):
    """Show a layer in the style inside its file, which Processing does not look for; tiles without one as outlines."""
    _message, found = layer.loadDefaultStyle()
    if not found:
        _outline(layer)


def _outline(layer):
    symbol = QgsFillSymbol.createSimple({"style": "no", "outline_color": "#444444", "outline_width": "0.2"})
    layer.setRenderer(QgsSingleSymbolRenderer(symbol))
    layer.triggerRepaint()


def _colour_shares(layer):
    """Colour a raster of values from 0 to 1."""
    ramp = QgsStyle.defaultStyle().colorRamp("Viridis")
    renderer = QgsSingleBandPseudoColorRenderer(layer.dataProvider(), 1)
    renderer.setClassificationMin(0.0)
    renderer.setClassificationMax(1.0)
    renderer.createShader(ramp, QgsColorRampShader.Type.Interpolated)
    layer.setRenderer(renderer)
    layer.triggerRepaint()
