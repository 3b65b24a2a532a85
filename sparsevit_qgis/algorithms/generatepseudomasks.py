"""From a classifier to a first map."""

from __future__ import annotations

from ..text import tr
from . import fields, inputs, settings
from .base import EngineAlgorithm, TrainingGroup


class GeneratePseudomasks(TrainingGroup, EngineAlgorithm):
    """Job `pseudomask`."""

    JOB = "pseudomask"

    def name(self):
        return "generatepseudomasks"

    def displayName(self):
        return tr("Generate pseudomasks")

    def shortDescription(self):
        return tr("Paints where each tagged class is, from the evidence of a trained classifier")

    def tags(self):
        return tr("pseudomask,pseudo-label,attention,class activation,weakly supervised,segmentation,land cover").split(
            ","
        )

    def shortHelpString(self):
        return tr(
            "<p>Paints a first map from a classifier that only knows tags: the class maps of the transformer, joined "
            "with the spectra, say where each class is; other methods read the attention of its heads. Borders follow "
            "the image.</p>"
            "<p>Inside tagged tiles only the tagged classes are painted. Pixels that could as well be another class "
            "are left without one; “Refine land cover” fills them.</p>"
            "<p>The scene is worked through in overlapping tiles, so tile edges do not show. For a tile index of "
            "separate patches give a folder in place of a raster: it receives one mask per patch.</p>"
        )

    def definitions(self):
        return [
            inputs.model(
                help_text=tr("Classifier (.safetensors) written by “Train classifier” or “Map land cover from tags”.")
            ),
            fields.tile_index(
                "TILES",
                tr("Tile index"),
                tr("Tagged tile index: inside its tagged tiles only the tagged classes are painted."),
                optional=True,
            ),
            inputs.scene_or_index(),
            inputs.extent(),
            *settings.pseudomask(),
            *settings.edges(),
            *settings.hardware(),
            fields.raster_output(
                "OUTPUT", tr("Pseudomask"), tr("Class raster to write (.tif), 255 is without a class.")
            ),
            fields.raster_output(
                "CONFIDENCE", tr("Confidence"), tr("Margin between the two best classes, 0–1 (.tif)."), optional=True
            ),
            fields.raster_output(
                "HEADS",
                tr("Attention heads"),
                tr("One band per surviving head (.tif): what the transformer looks at, see “Inspect attention heads”."),
                optional=True,
            ),
            fields.folder_output(
                "OUTPUT_FOLDER",
                tr("Folder of pseudomasks"),
                tr("Only for a tile index of separate patches: folder for one mask per patch, in place of the raster."),
            ),
        ]

    def numbers(self):
        return [
            ("LABELLED_SHARE", "labelled_share", tr("Share of the pixels that have a class")),
            ("SECONDS", "seconds", tr("Seconds")),
        ]

    def inconsistency(self, parameters, context):
        if not parameters.get("SCENE") and not parameters.get("TILES"):
            return tr("Give rasters (SCENE) or a tile index that names them (TILES).")
        return ""

    def job_request(self, values, outputs):
        request = super().job_request(values, outputs)
        request["output"] = request.pop("output_folder", None) or request["output"]
        return request

    def processAlgorithm(self, parameters, context, feedback):
        if parameters.get("OUTPUT_FOLDER"):  # then no raster is written, and QGIS must not wait for one
            parameters = {**parameters, "OUTPUT": None}
        return super().processAlgorithm(parameters, context, feedback)
