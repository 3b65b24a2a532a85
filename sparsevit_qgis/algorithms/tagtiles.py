"""Write image-level labels into a tile index."""

from __future__ import annotations

from ..text import tr
from . import fields, inputs, settings
from .base import EngineAlgorithm, IntoTiles, TrainingGroup
from .checks import label, missing
from .request import vector_layer


class TagTiles(IntoTiles, TrainingGroup, EngineAlgorithm):
    """Job `tag`."""

    JOB = "tag"

    def name(self):
        return "tagtiles"

    def displayName(self):
        return tr("Tag tiles")

    def shortDescription(self):
        return tr("Writes into each tile which classes occur in it, from fields, polygons, points or a coarse map")

    def tags(self):
        return tr(
            "tags,image-level labels,multi-label,annotation,weakly supervised,tile index,land cover,presence"
        ).split(",")

    def shortHelpString(self):
        return tr(
            "<p>Writes image-level labels into a tile index: for each tile and class <i>present</i>, <i>absent</i> or "
            "<i>unknown</i>.</p>"
            "<p>Tags may come from a text field (“Forest, Water”), from one true/false field per class, from polygons "
            "or points with a class, or from any categorical raster; a coarse global map will do. To tag by hand, type "
            "into a text field of the tile layer itself, save it, and choose it as the tag layer, too.</p>"
            "<p>The log shows which classes occur together. Classes that always occur together cannot be told apart, "
            "and a class that occurs in nearly every tile is learned badly: add tiles in which they differ.</p>"
        )

    def definitions(self):
        return [
            inputs.tiles(),
            *inputs.tag_source(tiles_too=True),
            inputs.scheme(),
            *fields.advanced([inputs.tag_mapping(), inputs.classes()]),
            *settings.tagging(),
            fields.tile_index_output(
                "OUTPUT",
                tr("Tagged tiles"),
                tr("Tile index to write (.gpkg). If skipped, the tags are written into the tile index itself."),
                optional=True,
            ),
        ]

    def numbers(self):
        return [("TILES", "tiles", tr("Number of tiles")), ("TAGGED", "tagged", tr("Number of tagged tiles"))]

    def inconsistency(self, parameters, context):
        return tag_problem(self, parameters, context, needs_layer=False)


def tag_problem(algorithm, parameters, context, needs_layer):
    """Why the parameters of the tags do not go together; empty if they do.

    Args:
        algorithm: The algorithm, for the names of its parameters.
        parameters: The values.
        context: The `QgsProcessingContext`.
        needs_layer: Whether the tags need a layer or raster; else the tile index may hold or name them.
    """
    source = algorithm.parameterAsEnumString(parameters, "SOURCE", context)
    needed = {
        "text": ["LAYER", "FIELD"] if needs_layer else ["FIELD"],
        "fields": ["LAYER"] if needs_layer else [],
        "vector": ["LAYER", "FIELD"],
        "raster": ["RASTER"] if needs_layer else [],
    }[source]
    unused = ["RASTER"]
    if source == "raster":  # a field of the tile index names rasters that patches have of their own
        unused = ["LAYER"] if not needs_layer and not parameters.get("RASTER") else ["LAYER", "FIELD"]
    for name in unused:
        if parameters.get(name):
            return tr("{} does not go with tags of the kind '{}'; leave it empty.").format(
                label(algorithm, name), source
            )
    return missing(algorithm, parameters, *needed) or _missing_field(algorithm, parameters, context)


def _missing_field(algorithm, parameters, context):
    name = algorithm.parameterAsString(parameters, "FIELD", context)
    layer = vector_layer(algorithm, "LAYER" if parameters.get("LAYER") else "TILES", parameters, context)
    if not name or layer is None or layer.fields().lookupField(name) >= 0:
        return ""
    return tr("{}: layer '{}' has no field '{}'; it has: {}.").format(
        label(algorithm, "FIELD"), layer.name(), name, ", ".join(layer.fields().names())
    )
