"""Compare a map with reference data."""

from __future__ import annotations

from ..text import tr
from . import fields, inputs
from .base import EngineAlgorithm, MapGroup
from .checks import no_class_field


class AssessAccuracy(MapGroup, EngineAlgorithm):
    """Job `assess`."""

    JOB = "assess"

    def name(self):
        return "assessaccuracy"

    def displayName(self):
        return tr("Assess accuracy")

    def shortDescription(self):
        return tr(
            "Compares a land-cover map with reference data: confusion matrix, mIoU, areas with confidence intervals"
        )

    def tags(self):
        return tr(
            "accuracy,assessment,validation,confusion matrix,overall accuracy,iou,miou,kappa,area,confidence interval,"
            "olofsson"
        ).split(",")

    def shortHelpString(self):
        return tr(
            "<p>Compares a map with a reference raster, polygons or points and writes a report: confusion matrix, "
            "overall and average accuracy, mean intersection over union (mIoU), precision, recall, IoU and F1 of each "
            "class, and areas with 95&nbsp;% confidence intervals (Olofsson et al. 2014).</p>"
            "<p>Pixels without a class in the map or the reference do not count; classes that never occur in the "
            "reference are listed and left out of the means.</p>"
            "<p>The intervals assume that the reference is a random sample of the map. Reference data that also made "
            "the tags, or that lie beside training tiles, make every number too good.</p>"
        )

    def definitions(self):
        return [
            fields.raster("MAP", tr("Map"), tr("Land-cover raster to assess.")),
            fields.raster_or_vector("REFERENCE", tr("Reference"), tr("Raster, polygons or points with known classes.")),
            fields.text(
                "FIELD",
                tr("Reference field"),
                tr("Name of the field with the class (code or name) of a vector reference."),
            ),
            inputs.scheme(optional=True),
            *fields.advanced(
                [
                    inputs.reference_mapping(),
                    fields.tile_index(
                        "TILES",
                        tr("Tile index"),
                        tr("Assess only inside the tiles of one split of this tile index."),
                        optional=True,
                    ),
                    fields.choice(
                        "SPLIT",
                        tr("Split"),
                        tr("Which tiles of the tile index count."),
                        ["validation", "test", "train"],
                        "validation",
                    ),
                    fields.text("TITLE", tr("Title"), tr("Title of the report."), "Land-cover accuracy"),
                ]
            ),
            fields.file_output("OUTPUT", tr("Report"), tr("Report to write (.html)."), fields.html_filter()),
            fields.file_output(
                "JSON_OUTPUT",
                tr("Report as JSON"),
                tr("The numbers of the report, for other programs."),
                fields.json_filter(),
                optional=True,
            ),
        ]

    def numbers(self):
        return [
            ("MIOU", "miou", tr("Mean intersection over union")),
            ("OA", "overall_accuracy", tr("Overall accuracy")),
            ("AA", "average_accuracy", tr("Average accuracy of the classes")),
            ("PIXELS", "pixels", tr("Pixels compared")),
        ]

    def inconsistency(self, parameters, context):
        return no_class_field(self, parameters, context, "FIELD")
