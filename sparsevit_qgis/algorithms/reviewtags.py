"""Review the tags of a tile index."""

from __future__ import annotations

from ..text import tr
from . import fields, inputs, learning, settings
from .base import EngineAlgorithm, IntoTiles, TrainingGroup


class ReviewTags(IntoTiles, TrainingGroup, EngineAlgorithm):
    """Job `review`."""

    JOB = "review"

    def name(self):
        return "reviewtags"

    def displayName(self):
        return tr("Review tags")

    def shortDescription(self):
        return tr("Finds tags that look wrong, and forgets them if you want")

    def tags(self):
        return tr("label noise,wrong tags,quality,confident learning,image-level labels,tile index,land cover").split(
            ","
        )

    def shortHelpString(self):
        return tr(
            "<p>Finds tags that look wrong. Small networks learn the tags of some tiles and say what they expect of "
            "the others; if tags look wrong, they look a second time, having learned better ones. "
            "Together with how often people seem to name one class for another, to leave one out or to name one too "
            "many, which is learned from your tags, too, this tells how probably each tag is wrong. Where hardly any "
            "is, unusual tiles are not doubted.</p>"
            "<p>Each tile gets two fields: <i>review_wrong</i>, the probability that its most doubtful tag is wrong "
            "(0–1), and <i>review_doubts</i>, the tags that are probably wrong, such as “Barren present”. "
            "Sort the table by <i>review_wrong</i>, look at the first tiles, and correct their tags. The log says how "
            "often each mistake seems to have been made.</p>"
            "<p>Or let doubted tags be forgotten, as “Map land cover from tags” does: they become unknown, and nothing "
            "is learned from them.</p>"
            "<p>Only tiles of the training and validation blocks are reviewed.</p>"
        )

    def definitions(self):
        return [
            inputs.tiles(),
            fields.switch(
                "FORGET",
                tr("Forget doubted tags"),
                tr("Make doubted tags unknown, so that nothing is learned from them. Otherwise they are only shown."),
                False,
            ),
            *fields.advanced(
                [
                    inputs.scene_or_index(),
                    fields.number("REVIEW_EPOCHS", tr("Review epochs"), tr("Epochs of each of the networks."), 120, 1),
                    learning.seed(),
                ]
            ),
            *settings.hardware(),
            fields.tile_index_output(
                "OUTPUT",
                tr("Reviewed tiles"),
                tr("Tile index to write (.gpkg). If skipped, the review is written into the tile index itself."),
                optional=True,
            ),
        ]

    def numbers(self):
        return [
            ("JUDGED", "judged", tr("Number of judged tags")),
            ("DOUBTED", "doubted", tr("Number of doubted tags")),
            ("DOUBTED_TILES", "doubted_tiles", tr("Number of tiles with doubted tags")),
            ("FORGOTTEN", "forgotten", tr("Number of forgotten tags")),
            ("SECONDS", "seconds", tr("Seconds")),
        ]

    def tell(self, result, feedback):
        if result["first"]:
            feedback.pushInfo(tr("Look at these tiles first: {}.").format(", ".join(result["first"])))
