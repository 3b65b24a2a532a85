"""Suggest which tiles to tag next."""

from __future__ import annotations

from ..text import tr
from . import fields, inputs, settings
from .base import EngineAlgorithm, IntoTiles, TrainingGroup


class SuggestTiles(IntoTiles, TrainingGroup, EngineAlgorithm):
    """Job `suggest`."""

    JOB = "suggest"

    def name(self):
        return "suggesttiles"

    def displayName(self):
        return tr("Suggest tiles to tag")

    def shortDescription(self):
        return tr("Ranks the untagged tiles by what their tags would tell the classifier")

    def tags(self):
        return tr("active learning,tags,image-level labels,uncertainty,entropy,annotation,tile index,land cover").split(
            ","
        )

    def shortHelpString(self):
        return tr(
            "<p>Ranks the tiles that are not tagged yet: first those whose tags the classifier knows least, and about "
            "which its attention heads disagree. Those are expected to teach it most.</p>"
            "<p>The ranks are fields of the tile index: <i>suggest_rank</i> (1: tag this one first), "
            "<i>suggest_bits</i> (what its tags would tell, in bits), and the two parts of it, <i>suggest_entropy</i> "
            "(what is unknown) and <i>suggest_disagreement</i> (what the heads disagree about).</p>"
            "<p>Only tiles of the training blocks are ranked: those of the held-out blocks are not learned from. Tag "
            "the first ones, train again, and ask again.</p>"
        )

    def definitions(self):
        return [
            inputs.tiles(),
            inputs.model(
                "CLASSIFIER", tr("Classifier"), tr("Classifier (.safetensors) trained on the tiles tagged so far.")
            ),
            *fields.advanced([inputs.scene_or_index()]),
            *settings.hardware(),
            fields.tile_index_output(
                "OUTPUT",
                tr("Ranked tiles"),
                tr("Tile index to write (.gpkg). If skipped, the ranks are written into the tile index itself."),
                optional=True,
            ),
        ]

    def numbers(self):
        return [("RANKED", "ranked", tr("Number of ranked tiles")), ("SECONDS", "seconds", tr("Seconds"))]

    def tell(self, result, feedback):
        feedback.pushInfo(tr("Tag these tiles first: {}.").format(", ".join(result["first"])))
