"""Make a QGIS project and two pictures of the demo's results; run by QGIS's own Python.

Usage: `render.py SAMPLE_FOLDER SCHEME RESULTS_FOLDER`. Writes `project.qgz`, `map.png` (what comes out) and `steps.png`
(what it came from) into the results folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from qgis.core import (
    QgsApplication,
    QgsColorRampShader,
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
    QgsRasterShader,
    QgsRectangle,
    QgsSingleBandPseudoColorRenderer,
    QgsSingleSymbolRenderer,
    QgsStyle,
    QgsTextFormat,
    QgsUnitTypes,
    QgsVectorLayer,
)
from qgis.PyQt.QtGui import QColor, QFont

# A page, in millimetres: square panels in a row, a title above, the legend below.
PANEL, GAP, TOP, BOTTOM = 70.0, 4.0, 22.0, 24.0
DPI = 200
SHOWN_HEADS = 2
SOURCES = "Eastern Shore of Virginia, USA. Contains modified Copernicus Sentinel data 2016."


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


def as_ramp(path: Path, band: int, name: str) -> QgsRasterLayer:
    """One band, dark to bright between its 2nd and 98th percentile."""
    layer = QgsRasterLayer(str(path), name)
    low, high = layer.dataProvider().cumulativeCut(band, 0.02, 0.98)
    function = QgsColorRampShader(low, high, QgsStyle.defaultStyle().colorRamp("Viridis"))
    function.classifyColorRamp()
    shader = QgsRasterShader()
    shader.setRasterShaderFunction(function)
    layer.setRenderer(QgsSingleBandPseudoColorRenderer(layer.dataProvider(), band, shader))
    return layer


def band_names(path: Path) -> list[str]:
    """The descriptions of a raster's bands."""
    layer = QgsRasterLayer(str(path), "")
    provider = layer.dataProvider()
    return [provider.generateBandName(n).split(": ", 1)[-1] for n in range(1, provider.bandCount() + 1)]


def plainest_heads(path: Path) -> dict[str, tuple[str, QgsRasterLayer]]:
    """The heads that follow a class most closely, with a title, by the class."""
    spoken = []
    for number, text in enumerate(band_names(path), start=1):
        place, _, classes = text.partition(": ")
        name, _, correlation = classes.split(", ")[0].rpartition(" ")
        if name and correlation.startswith("+"):
            spoken.append((float(correlation), name, number, place.split(", gate")[0]))
    found: dict[str, tuple[str, QgsRasterLayer]] = {}
    for correlation, name, number, head in sorted(spoken, reverse=True):
        if name not in found and len(found) < SHOWN_HEADS:
            found[name] = f"{head} ({name} {correlation:+.2f})", as_ramp(path, number, head)
    return found


def class_evidence(path: Path, classes: list[str]) -> list[tuple[str, QgsRasterLayer]]:
    """The classifier's probabilities of some classes, with a title."""
    bands = {name: number for number, name in enumerate(band_names(path), start=1)}
    return [(f"Evidence of {name.lower()}", as_ramp(path, bands[name], name)) for name in classes]


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
    place(item, left, top, 4 * PANEL, 0.6 * size)


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


def legend(layout, layer, width: float) -> None:
    """The classes of the map, in a row of some width (mm) below the panels."""
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
    place(item, GAP, TOP + PANEL + 2, width, 10)


def scale_bar(layout, map_item, right: float) -> None:
    """A scale bar below the panels, up to some way from the left (mm)."""
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
    place(item, right - 45, TOP + PANEL + 3, 40, 10)


def compose(project: QgsProject, title: str, panels: list, classes, sources: str) -> QgsPrintLayout:
    """A page of panels, each with its title and its layers, above the legend of a class raster."""
    layout = QgsPrintLayout(project)
    layout.initializeDefaults()
    layout.setName(title)
    unit = QgsUnitTypes.LayoutUnit.LayoutMillimeters
    width, height = len(panels) * (PANEL + GAP) + GAP, TOP + PANEL + BOTTOM
    layout.pageCollection().page(0).setPageSize(QgsLayoutSize(width, height, unit))
    label(layout, title, 12, GAP, 4, bold=True)
    extent = square(classes.extent())
    items = [panel(layout, name, layers, extent, k) for k, (name, layers) in enumerate(panels)]
    legend(layout, classes, width - 60)
    scale_bar(layout, items[0], width)
    label(layout, sources, 6, GAP, height - 6)
    return layout


def pages(project: QgsProject, layers: dict, results: Path) -> dict[str, QgsPrintLayout]:
    """What comes out, and what it came from, by the name of the picture."""
    out = [
        ("Sentinel-2 and the tagged tiles", [layers["tiles"], layers["scene"]]),
        ("Pseudomask", [layers["pseudomask"]]),
        ("Land cover", [layers["landcover"]]),
        ("Reference (never used for training)", [layers["reference"]]),
    ]
    heads = plainest_heads(results / "heads.tif")
    inside = [*heads.values(), *class_evidence(results / "evidence.tif", list(heads))]
    project.addMapLayers([layer for _, layer in inside], False)
    steps = [(name, [layer]) for name, layer in inside] + out[1:3]
    title = "Land cover from tags: which classes occur in a tile, never where"
    reference = f"{SOURCES} Reference: Dynamic World model."
    inner = "On the way to the map: where single attention heads look, evidence of classes, pseudomask, map"
    landcover = layers["landcover"]
    return {
        "map": compose(project, title, out, landcover, reference),
        "steps": compose(project, inner, steps, landcover, SOURCES),
    }


def main() -> None:
    """Write the project and the pictures."""
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
    for name, layout in pages(project, layers, results).items():
        project.layoutManager().addLayout(layout)
        if not QgsLayoutExporter(layout).renderPageToImage(0, dpi=DPI).save(str(results / f"{name}.png")):
            sys.exit(f"The picture {name}.png could not be written.")
    if not project.write(str(results / "project.qgz")):
        sys.exit("The project could not be written.")


if __name__ == "__main__":
    main()
