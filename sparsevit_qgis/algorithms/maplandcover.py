"""From tags to a land-cover map, in one step."""

from __future__ import annotations

from ..text import tr
from . import fields, inputs, learning, settings
from .base import EngineAlgorithm, MapGroup
from .checks import missing, no_class_field
from .request import destination_path
from .tagtiles import tag_problem


class MapLandCover(MapGroup, EngineAlgorithm):
    """Job `map`: all the steps in one request."""

    JOB = "map"

    def name(self):
        return "maplandcover"

    def displayName(self):
        return tr("Map land cover from tags")

    def shortDescription(self):
        return tr("Makes a land-cover map from tags: which classes occur in a place, not where")

    def tags(self):
        return tr(
            "land cover,land use,classification,segmentation,weakly supervised,image-level labels,tags,deep learning,"
            "vision transformer,sentinel-2,sentinel-1,pseudomask"
        ).split(",")

    def shortHelpString(self):
        return tr(
            "<p>Makes a land-cover map of a Sentinel-2 scene (with Sentinel-1 if you have it) from <b>tags</b>: you "
            "say which classes occur in some places, such as “Forest, Water”, never where.</p>"
            "<p>A vision transformer, pruned to the few attention heads that it needs, learns the tags; what it says "
            "of each patch, together with the spectra, shows where each class is (pseudomask); a segmentation network "
            "refines this into the map.</p>"
            "<p><b>Before:</b> tag at least some dozen places of about 640 m. Tags work when classes do not always "
            "occur together: two classes that share every place cannot be told apart. Every class needs places "
            "without it, too.</p>"
            "<p><b>After:</b> read the log: it says how many tags look wrong, and how well those of held-out blocks "
            "are explained. For an accuracy give a reference that was not used for the tags, and read "
            "the report.</p>"
            "<p>On two processor cores, without a GPU, 118 tiles took six to nine minutes with the "
            "defaults, but without controls.</p>"
        )

    def definitions(self):
        return [
            inputs.scene(),
            *inputs.tag_source(),
            inputs.scheme(),
            *fields.advanced([inputs.band_names(), inputs.tag_mapping(), inputs.classes()]),
            *settings.tiling(),
            *settings.tagging(),
            settings.doubts(),
            *learning.heads(),
            *learning.classifier(),
            *learning.training(),
            *settings.pseudomask(),
            *learning.refinement(),
            *settings.mapping(),
            *settings.edges(),
            *settings.hardware(),
            *_reference(),
            *_outputs(),
        ]

    def numbers(self):
        return [
            ("DOUBTED", "doubted", tr("Number of tags that look wrong")),
            ("FORGOTTEN", "forgotten", tr("Number of tags that were forgotten")),
            ("HEADS_KEPT", "heads_kept", tr("Attention heads kept")),
            ("HEADS_TOTAL", "heads_total", tr("Attention heads at the start")),
            ("MACRO_F1", "macro_f1", tr("Macro F1 of the tags on validation blocks")),
            ("MEAN_AP", "mean_ap", tr("Mean average precision of the tags on validation blocks")),
            ("REFINED_WEIGHT", "refined_weight", tr("Weight of the refined network in the map")),
            ("MIOU", "miou", tr("Mean intersection over union against the reference")),
            ("OA", "overall_accuracy", tr("Overall accuracy against the reference")),
            ("SECONDS", "seconds", tr("Seconds")),
        ]

    def inconsistency(self, parameters, context):
        problem = tag_problem(self, parameters, context, needs_layer=True)
        if problem:
            return problem
        if parameters.get("REFERENCE"):
            return missing(self, parameters, "REPORT") or no_class_field(self, parameters, context, "REFERENCE_FIELD")
        asked = [name for name in ("REPORT", "REPORT_JSON") if destination_path(parameters.get(name))]
        return missing(self, parameters, "REFERENCE") if asked else ""

    def processAlgorithm(self, parameters, context, feedback):
        if not parameters.get("REFERENCE"):  # the dialog asks for a temporary report by itself
            parameters = {**parameters, "REPORT": None, "REPORT_JSON": None}
        return super().processAlgorithm(parameters, context, feedback)


def _reference():
    """What the map is compared with."""
    return [
        fields.raster_or_vector(
            "REFERENCE",
            tr("Reference"),
            tr(
                "Raster, polygons or points with known classes, for the report. Use data that did not make the "
                "tags, else the accuracy is too good to be true."
            ),
            optional=True,
        ),
        fields.text(
            "REFERENCE_FIELD", tr("Reference field"), tr("Name of the field with the class of a vector reference.")
        ),
        *fields.advanced([inputs.reference_mapping("REFERENCE_MAPPING", tr("Reference mapping"))]),
    ]


def _outputs():
    """Everything that one run leaves behind."""
    return [
        fields.raster_output("LANDCOVER", tr("Land cover"), tr("The map: a GeoTIFF with legend, 255 is nodata.")),
        fields.raster_output(
            "CONFIDENCE", tr("Confidence"), tr("Margin between the two best classes, 0–1, as the network sees it.")
        ),
        fields.raster_output("PSEUDOMASK", tr("Pseudomask"), tr("The first map, that the refinement started from.")),
        fields.tile_index_output("TILES", tr("Tiles"), tr("Tile index (.gpkg): tiles with their tags and split.")),
        fields.file_output(
            "CLASSIFIER_MODEL",
            tr("Classifier"),
            tr("The transformer (.safetensors), for “Generate pseudomasks” in other scenes."),
            fields.model_filter(),
        ),
        fields.file_output(
            "MODEL",
            tr("Land-cover model"),
            tr("The refined model (.safetensors), for “Predict land cover” in other scenes."),
            fields.model_filter(),
        ),
        fields.file_output(
            "REPORT",
            tr("Report"),
            tr("Accuracy of the map against the reference (.html); goes with a reference."),
            fields.html_filter(),
            optional=True,
            by_default=True,
        ),
        fields.file_output(
            "REPORT_JSON",
            tr("Report as JSON"),
            tr("The numbers of the report, for other programs (.json); goes with a report."),
            fields.json_filter(),
            optional=True,
        ),
    ]
