"""Quality against the number of attention heads."""

from __future__ import annotations

from ..text import tr
from . import fields, inputs, learning, settings
from .base import EngineAlgorithm, TrainingGroup
from .checks import missing


class StudyHeads(TrainingGroup, EngineAlgorithm):
    """Job `study heads`."""

    JOB = "study heads"

    def name(self):
        return "studyheads"

    def displayName(self):
        return tr("Study attention heads")

    def shortDescription(self):
        return tr("Shows what fewer and fewer attention heads cost, chosen by gates, by importance, and by chance")

    def tags(self):
        return tr("attention heads,pruning,hard concrete,taylor,ablation,study,benchmark,land cover").split(",")

    def shortHelpString(self):
        return tr(
            "<p>Trains the transformer with all heads, then goes on with fewer and fewer of them: chosen by the gates "
            "as “Train classifier” does, by Taylor importance, and at random; and without any. The report shows how "
            "well each explains the tags of the held-out tiles, with the spread over seeds.</p>"
            "<p>It answers three questions about your own tags: how many heads are needed (the value for “Share of "
            "heads kept”); whether it matters which ones stay (where gates are not above chance, it does not); and "
            "what attention is worth at all, against the network without heads. (Its class token sees nothing, which "
            "alone lowers macro F1: compare mean average precision and maps.)</p>"
            "<p>With a reference raster, maps are scored too. Three seeds and six shares train 60 networks: plan "
            "for hours on a CPU, or use fewer shares.</p>"
        )

    def definitions(self):
        return [
            inputs.tiles(),
            fields.raster(
                "REFERENCE",
                tr("Reference"),
                tr("Categorical raster of the held-out tiles, to score maps too. Leave empty to score tags alone."),
                optional=True,
            ),
            fields.text(
                "SHARES",
                tr("Shares of heads"),
                tr(
                    "Shares of the heads to keep, between 0 and 1, separated by commas. Leave empty for "
                    "0.75, 0.5, 0.3, 0.2, 0.1, 0.05."
                ),
            ),
            fields.number(
                "SEEDS",
                tr("Seeds"),
                tr("How often everything is trained, each time from another seed; less than 3 shows no spread."),
                3,
                1,
            ),
            fields.switch(
                "REFINED",
                tr("Score refined maps"),
                tr("Also refine every variant and score its final map; takes many times as long."),
                False,
            ),
            *learning.classifier(),
            *fields.advanced(
                [
                    inputs.scene_or_index(),
                    inputs.band_choice(),
                    inputs.classes(),
                    inputs.reference_mapping(),
                ]
            ),
            *learning.refinement(),
            *learning.training(),
            *settings.hardware(),
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
            ("HEADS_TOTAL", "heads_total", tr("Attention heads at the start")),
            ("MACRO_F1_ALL_HEADS", "macro_f1_all_heads", tr("Macro F1 with no heads removed")),
            ("FEWEST_HEADS", "fewest_heads", tr("Fewest heads that cost less than half a point of macro F1")),
            ("FEWEST_SHARE", "fewest_share", tr("The same as a share of the heads")),
            ("SECONDS", "seconds", tr("Seconds")),
        ]

    def inconsistency(self, parameters, context):
        refined = self.parameterAsBoolean(parameters, "REFINED", context)
        return missing(self, parameters, "REFERENCE") if refined else ""

    def tell(self, result, feedback):
        for row in result["rows"]:
            score = f"{100 * row['f1_mean']:5.1f} ± {100 * row['f1_sd']:.1f}"
            feedback.pushInfo(tr("{} macro F1   {} heads: {}").format(score, row["heads"], row["method"]))
