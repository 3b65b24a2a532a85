"""Map a scene with a saved model."""

from __future__ import annotations

from ..text import tr
from . import fields, inputs, settings
from .base import EngineAlgorithm, MapGroup


class PredictLandCover(MapGroup, EngineAlgorithm):
    """Job `predict`."""

    JOB = "predict"

    def name(self):
        return "predictlandcover"

    def displayName(self):
        return tr("Predict land cover")

    def shortDescription(self):
        return tr("Maps the land cover of a scene with a saved model")

    def tags(self):
        return tr("predict,inference,map,deep learning,segmentation,land cover,sentinel-2,sentinel-1,gpu").split(",")

    def shortHelpString(self):
        return tr(
            "<p>Maps a scene with a model that was made here or elsewhere. The model knows its bands, its ground "
            "sampling distance, its classes and their colours, and is checked against the scene first.</p>"
            "<p>Tiles overlap and are blended, so their edges do not show. Memory does not depend on the size of the "
            "scene. Where the scene has no data the map has none.</p>"
            "<p>A model is only as good as its training: in another season, region or processing level expect less, "
            "and check with “Assess accuracy”.</p>"
        )

    def definitions(self):
        return [
            inputs.model(),
            inputs.scene(),
            inputs.extent(),
            fields.polygons("MASK", tr("Mask"), tr("Map only inside these polygons; outside them the map is nodata.")),
            *fields.advanced([inputs.band_names()]),
            *settings.mapping(),
            *settings.edges(),
            *settings.hardware(),
            fields.raster_output("OUTPUT", tr("Land cover"), tr("The map: a GeoTIFF with legend, 255 is nodata.")),
            fields.raster_output(
                "CONFIDENCE", tr("Confidence"), tr("Margin between the two best classes, 0–1 (.tif)."), optional=True
            ),
            fields.raster_output(
                "PROBABILITIES",
                tr("Probabilities"),
                tr("One band per class with its probability, 0–1 (.tif)."),
                optional=True,
            ),
        ]

    def numbers(self):
        return [
            ("MPX", "megapixels", tr("Megapixels mapped")),
            ("MPX_PER_S", "megapixels_per_second", tr("Megapixels per second")),
            ("SECONDS", "seconds", tr("Seconds")),
        ]

    def tell(self, result, feedback):
        for name, share in sorted(result["class_shares"].items(), key=lambda item: -item[1]):
            feedback.pushInfo(f"{100 * share:5.1f} %  {name}")
