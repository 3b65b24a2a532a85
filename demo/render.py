"""Make a QGIS project and a picture of the demo's results; run by QGIS's own Python.

Usage: `render.py SAMPLE_FOLDER SCHEME RESULTS_FOLDER`. Writes `project.qgz` and `map.png` into the results folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from qgis.core import (
    QgsApplication,
    QgsContrastEnhancement,
    QgsFillSymbol,
    QgsLayoutExporter,
    QgsLayoutItemLabel,
    QgsLayoutItemLegend,
    QgsLayoutItemMap,
    QgsLayoutItemScaleBar,
    QgsLayoutPoint,
    QgsLayoutSize,
    QgsLegendStyle,
    QgsMapLayerLegendUtils,
    QgsMultiBandColorRenderer,
    QgsPalettedRasterRenderer,
    QgsPrintLayout,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsSingleSymbolRenderer,
    QgsTextFormat,
    QgsUnitTypes,
    QgsVectorLayer,
)
from qgis.PyQt.QtGui import QColor, QFont

# The page, in millimetres: four square panels in a row, a title above, the legend below.
PANEL, GAP, TOP, BOTTOM = 70.0, 4.0, 22.0, 24.0
PAGE = (4 * PANEL + 5 * GAP, TOP + PANEL + BOTTOM)
DPI = 200


def true_colour(path: Path) -> QgsRasterLayer:
    """The scene in B04, B03, B02, each stretched between its 2nd and 98th percentile."""
    layer = QgsRasterLayer(str(path), "Sentinel-2, true colour")
    provider = layer.dataProvider()
    numbers = {provider.generateBandName(n).split(": ")[-1]: n for n in range(1, provider.bandCount() + 1)}
    renderer = QgsMultiBandColorRenderer(provider, numbers["B04"], numbers["B03"], numbers["B02"])
    for name, place in (
        ("B04", renderer.setRedContrastEnhancement),
        ("B03", renderer.setGreenContrastEnhancement),
        ("B02", renderer.setBlueContrastEnhancement),
    ):
        low, high = provider.cumulativeCut(numbers[name], 0.02, 0.98)
        stretch = QgsContrastEnhancement(provider.dataType(numbers[name]))
        stretch.setMinimumValue(low)
        stretch.setMaximumValue(high)
        stretch.setContrastEnhancementAlgorithm(
            QgsContrastEnhancement.ContrastEnhancementAlgorithm.StretchToMinimumMaximum
        )
        place(stretch)
    layer.setRenderer(renderer)
    return layer


def with_classes(layer: QgsRasterLayer, scheme: Path) -> QgsRasterLayer:
    """Give a class raster the colours and names of a scheme, for the classes that occur in it."""
    classes = {c["code"]: c for c in json.loads(scheme.read_text(encoding="utf-8"))["classes"]}
    present = QgsPalettedRasterRenderer.classDataFromRaster(layer.dataProvider(), 1)
    named = [
        QgsPalettedRasterRenderer.Class(c.value, QColor(classes[c.value]["color"]), classes[c.value]["name"])
        for c in present
        if c.value in classes
    ]
    layer.setRenderer(QgsPalettedRasterRenderer(layer.dataProvider(), 1, named))
    return layer


def tile_outlines(path: Path) -> QgsVectorLayer:
    """The tagged tiles as outlines."""
    layer = QgsVectorLayer(str(path), "Tagged tiles")
    symbol = QgsFillSymbol.createSimple({"style": "no", "outline_color": "#ffffff", "outline_width": "0.15"})
    layer.setRenderer(QgsSingleSymbolRenderer(symbol))
    return layer


def place(item, left: float, top: float, width: float, height: float) -> None:
    """Put an item on the page; all in millimetres."""
    unit = QgsUnitTypes.LayoutUnit.LayoutMillimeters
    item.attemptMove(QgsLayoutPoint(left, top, unit))
    item.attemptResize(QgsLayoutSize(width, height, unit))


def label(layout, text: str, size: float, left: float, top: float, bold: bool = False) -> None:
    """Write a line of text."""
    item = QgsLayoutItemLabel(layout)
    item.setText(text)
    item.setFont(font(size, bold))
    layout.addLayoutItem(item)
    place(item, left, top, PAGE[0] - left, 0.6 * size)


def font(size: float, bold: bool = False) -> QFont:
    """The font of the page."""
    chosen = QFont("DejaVu Sans")
    chosen.setPointSizeF(size)
    chosen.setBold(bold)
    return chosen


def panel(layout, title: str, layers: list, extent, number: int):
    """One map with its title."""
    left = GAP + number * (PANEL + GAP)
    label(layout, title, 8, left, TOP - 6)
    item = QgsLayoutItemMap(layout)
    layout.addLayoutItem(item)
    place(item, left, TOP, PANEL, PANEL)
    item.setLayers(layers)
    item.setExtent(extent)
    item.setFrameEnabled(True)
    return item


def square(extent):
    """The smallest square around an extent, because the panels are square."""
    half = max(extent.width(), extent.height()) / 2
    centre = extent.center()
    return QgsRectangle(centre.x() - half, centre.y() - half, centre.x() + half, centre.y() + half)


def legend(layout, layer) -> None:
    """The classes of the map, in a row below the panels."""
    item = QgsLayoutItemLegend(layout)
    item.setAutoUpdateModel(False)
    root = item.model().rootGroup()
    root.clear()
    node = root.addLayer(layer)
    node.setCustomProperty("legend/title-style", "hidden")
    classes = len(layer.renderer().classes())
    QgsMapLayerLegendUtils.setLegendNodeOrder(node, list(range(1, classes + 1)))  # 0 is the name of the band
    item.model().refreshLayerLegend(node)
    item.setColumnCount(classes)
    item.setSplitLayer(True)
    item.setEqualColumnWidth(False)
    for style in (QgsLegendStyle.Style.SymbolLabel, QgsLegendStyle.Style.Subgroup):
        item.setStyleFont(style, font(7.5))
    layout.addLayoutItem(item)
    place(item, GAP, TOP + PANEL + 2, PAGE[0] - 60, 10)


def scale_bar(layout, map_item) -> None:
    """A scale bar below the last panel."""
    item = QgsLayoutItemScaleBar(layout)
    item.setLinkedMap(map_item)
    item.applyDefaultSize()
    item.setUnits(QgsUnitTypes.DistanceUnit.DistanceKilometers)
    item.setUnitLabel("km")
    item.setUnitsPerSegment(2)
    item.setNumberOfSegments(2)
    item.setNumberOfSegmentsLeft(0)
    item.setHeight(1.5)
    item.setTextFormat(QgsTextFormat.fromQFont(font(7)))
    layout.addLayoutItem(item)
    place(item, PAGE[0] - 45, TOP + PANEL + 3, 40, 10)


def compose(project: QgsProject, layers: dict, results: Path) -> QgsPrintLayout:
    """The page of `map.png`."""
    layout = QgsPrintLayout(project)
    layout.initializeDefaults()
    layout.setName("Land cover from tags")
    unit = QgsUnitTypes.LayoutUnit.LayoutMillimeters
    layout.pageCollection().page(0).setPageSize(QgsLayoutSize(*PAGE, unit))
    label(layout, "Land cover from tags: which classes occur in a tile, never where", 12, GAP, 4, bold=True)
    extent = square(layers["scene"].extent())
    panel(layout, "Sentinel-2 and the tagged tiles", [layers["tiles"], layers["scene"]], extent, 0)
    panel(layout, "Pseudomask", [layers["pseudomask"]], extent, 1)
    last = panel(layout, "Land cover", [layers["landcover"]], extent, 2)
    panel(layout, "Reference (never used for training)", [layers["reference"]], extent, 3)
    legend(layout, layers["landcover"])
    scale_bar(layout, last)
    sources = (
        "Eastern Shore of Virginia, USA. Contains modified Copernicus Sentinel data 2016. "
        "Reference: Dynamic World model."
    )
    label(layout, sources, 6, GAP, PAGE[1] - 6)
    return layout


def main() -> None:
    """Write the project and the picture."""
    sample, scheme, results = (Path(argument) for argument in sys.argv[1:])
    application = QgsApplication([], True)  # a graphical one, offscreen: text needs fonts
    application.initQgis()
    project = QgsProject.instance()
    layers = {
        "tiles": tile_outlines(results / "tiles.gpkg"),
        "landcover": with_classes(QgsRasterLayer(str(results / "landcover.tif"), "Land cover"), scheme),
        "confidence": QgsRasterLayer(str(results / "confidence.tif"), "Confidence"),
        "pseudomask": with_classes(QgsRasterLayer(str(results / "pseudomask.tif"), "Pseudomask"), scheme),
        "reference": with_classes(QgsRasterLayer(str(sample / "reference.tif"), "Reference"), scheme),
        "scene": true_colour(sample / "s2_10m.tif"),
    }
    unreadable = [name for name, layer in layers.items() if not layer.isValid()]
    if unreadable:
        sys.exit(f"These results cannot be read: {', '.join(unreadable)}.")
    root = project.layerTreeRoot()
    for name, layer in layers.items():
        project.addMapLayer(layer, False)
        root.addLayer(layer).setItemVisibilityChecked(name in ("tiles", "landcover", "scene"))
    project.setCrs(layers["scene"].crs())
    layout = compose(project, layers, results)
    project.layoutManager().addLayout(layout)
    picture = QgsLayoutExporter(layout).renderPageToImage(0, dpi=DPI)
    if not (picture.save(str(results / "map.png")) and project.write(str(results / "project.qgz"))):
        sys.exit("The picture or the project could not be written.")


if __name__ == "__main__":
    main()
