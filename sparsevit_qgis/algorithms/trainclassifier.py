"""Train the gated vision transformer on tagged tiles."""

from __future__ import annotations

from ..text import tr
from . import fields, inputs, learning, settings
from .base import EngineAlgorithm, TrainingGroup
from .checks import nothing_to_resume


class TrainClassifier(TrainingGroup, EngineAlgorithm):
    """Job `train`."""

    JOB = "train"

    def name(self):
        return "trainclassifier"

    def displayName(self):
        return tr("Train classifier")

    def shortDescription(self):
        return tr("Trains a sparse vision transformer on tagged tiles")

    def tags(self):
        return tr(
            "train,deep learning,vision transformer,attention heads,hard concrete,pruning,sparse,multi-label,"
            "classification,gpu"
        ).split(",")

    def shortHelpString(self):
        return tr(
            "<p>Trains a vision transformer to tell which classes occur in a tile. Each attention head has a gate; "
            "gates close until few heads are left: as few as cost next to nothing on held-out tags, or the share asked "
            "for. What the transformer then says of each patch shows where the classes are. A small per-pixel network "
            "learns the spectra from the same tags.</p>"
            "<p>The log compares the chosen heads with randomly chosen ones and with all of them (controls), and "
            "gives macro F1 and mean average precision of the tags on the validation blocks. A macro F1 below about "
            "0.5 means that the pseudomasks will be poor: add tiles, tags or epochs.</p>"
            "<p>Give a folder for checkpoints to be able to resume a long training.</p>"
        )

    def definitions(self):
        return [
            inputs.tiles(),
            *learning.heads(),
            *learning.classifier(),
            *fields.advanced(
                [
                    inputs.scene_or_index(),
                    inputs.band_choice(),
                    inputs.classes(),
                ]
            ),
            *learning.training(),
            *settings.hardware(),
            *learning.checkpoints(),
            fields.file_output(
                "OUTPUT", tr("Classifier"), tr("Model file to write (.safetensors)."), fields.model_filter()
            ),
        ]

    def numbers(self):
        return [
            ("PARAMETERS", "parameters", tr("Weights of the saved model")),
            ("HEADS_KEPT", "heads_kept", tr("Attention heads kept")),
            ("HEADS_TOTAL", "heads_total", tr("Attention heads at the start")),
            ("MACRO_F1", "macro_f1", tr("Macro F1 on validation blocks")),
            ("MEAN_AP", "mean_ap", tr("Mean average precision on validation blocks")),
            ("MACRO_F1_RANDOM_HEADS", "macro_f1_random_heads", tr("Macro F1 with random heads removed (control)")),
            ("MACRO_F1_ALL_HEADS", "macro_f1_all_heads", tr("Macro F1 with no heads removed (control)")),
            ("TAG_LOSS", "tag_loss", tr("Loss of the tags on validation blocks")),
            ("SECONDS", "seconds", tr("Seconds")),
        ]

    def inconsistency(self, parameters, context):
        return nothing_to_resume(self, parameters, context)
