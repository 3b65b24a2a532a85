"""Attention heads as layers."""

from __future__ import annotations

from ..text import tr
from . import fields, inputs, settings
from .base import EngineAlgorithm, MapGroup


class InspectHeads(MapGroup, EngineAlgorithm):
    """Job `inspect`."""

    JOB = "inspect"

    def name(self):
        return "inspectheads"

    def displayName(self):
        return tr("Inspect attention heads")

    def shortDescription(self):
        return tr("Shows what each surviving attention head of a model looks at, one band per head")

    def tags(self):
        return tr("attention,heads,gates,explain,interpretability,transformer,land cover").split(",")

    def shortHelpString(self):
        return tr(
            "<p>Shows what the transformer looks at when it decides which classes occur: one band for each attention "
            "head that survived the training.</p>"
            "<p>The values are attention in units of its mean over a tile: 1 is no preference, 0 is what the head "
            "never looks at. Each band is named by its block and head, by its gate (the probability of being open when "
            "the heads competed), and by the classes it speaks for: those whose probability rises and falls with it "
            "over the area, with the correlation (from +0.20).</p>"
            "<p>A head may speak for a class without deciding on it: correlation is no proof of cause.</p>"
        )

    def definitions(self):
        return [
            inputs.model(),
            inputs.scene(),
            inputs.extent(),
            *fields.advanced([inputs.band_names()]),
            *settings.mapping(),
            *settings.hardware(),
            fields.raster_output("OUTPUT", tr("Attention heads"), tr("Raster to write (.tif), one band per head.")),
        ]

    def numbers(self):
        return [("SECONDS", "seconds", tr("Seconds"))]
