"""Turn a land-cover map into polygons."""

from __future__ import annotations

from ..text import tr
from . import fields, inputs
from .base import EngineAlgorithm, MapGroup


class VectorizeLandCover(MapGroup, EngineAlgorithm):
    """Job `vectorize`."""

    JOB = "vectorize"

    def name(self):
        return "vectorizelandcover"

    def displayName(self):
        return tr("Vectorise land cover")

    def shortDescription(self):
        return tr("Turns a land-cover map into polygons with class, area and mean confidence")

    def tags(self):
        return tr(
            "vectorise,vectorize,polygonise,polygonize,raster to vector,polygons,minimum mapping unit,mmu,sieve,"
            "simplify,generalise,land cover,area,geopackage"
        ).split(",")

    def shortHelpString(self):
        return tr(
            "<p>Turns a land-cover map, or any raster of class codes, into polygons. Each has the code and the name of "
            "its class, its area in square metres (on the ellipsoid where the map is in degrees) and the mean "
            "confidence of its pixels.</p>"
            "<p>Patches smaller than the <b>minimum mapping unit</b> join their largest neighbour; only a patch that "
            "has nothing but nodata around it stays small. Pixels without data belong to no polygon.</p>"
            "<p>The <b>simplification</b> moves borders between polygons, never the rim of the map, and leaves neither "
            "gaps nor overlaps. Polygons it makes smaller may fall below the minimum mapping unit.</p>"
            "<p>The layer opens in the colours of the class scheme. The whole map is held in memory, about 50 bytes "
            "per pixel.</p>"
        )

    def definitions(self):
        return [
            fields.raster("MAP", tr("Map"), tr("Land-cover raster, or any raster with one band of class codes.")),
            fields.raster(
                "CONFIDENCE",
                tr("Confidence"),
                tr(
                    "Confidence raster that was written with the map, on the same pixel grid. Its mean goes to each "
                    "polygon; leave empty to leave that field empty."
                ),
                optional=True,
            ),
            inputs.scheme(optional=True),
            fields.number(
                "MINIMUM_MAPPING_UNIT_M2",
                tr("Minimum mapping unit (m²)"),
                tr(
                    "Patches of a smaller area, in square metres, join their largest neighbour: 5000 is half a "
                    "hectare. 0 keeps all patches."
                ),
                0.0,
                0.0,
            ),
            fields.number(
                "SIMPLIFY_M",
                tr("Simplification (m)"),
                tr(
                    "Tolerance in metres: corners of borders that span a triangle smaller than a square of this side "
                    "are dropped. One to two pixels smooth the stairs. 0 keeps the edges of pixels."
                ),
                0.0,
                0.0,
            ),
            *fields.advanced(
                [
                    fields.choice(
                        "CONNECTIVITY",
                        tr("Connectivity"),
                        tr(
                            "4: pixels of a patch hold together by their edges. 8: by their corners too; a patch may "
                            "then be a polygon of several parts."
                        ),
                        ["4", "8"],
                        "4",
                    )
                ]
            ),
            fields.polygons_output("OUTPUT", tr("Land-cover polygons"), tr("Polygon layer to write (.gpkg).")),
        ]

    def numbers(self):
        return [
            ("POLYGONS", "polygons", tr("Number of polygons")),
            ("MERGED", "merged", tr("Small patches that joined a neighbour")),
            ("AREA_HA", "area_ha", tr("Area of all polygons (ha)")),
        ]

    def tell(self, result, feedback):
        for name, area in sorted(result["class_areas_ha"].items(), key=lambda item: -item[1]):
            feedback.pushInfo(f"{area:12.2f} ha  {name}")
