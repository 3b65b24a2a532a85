"""Train a segmentation network on the pseudomasks."""

from __future__ import annotations

from ..text import tr
from . import fields, inputs, learning, settings
from .base import EngineAlgorithm, TrainingGroup
from .checks import nothing_to_resume


class RefineLandCover(TrainingGroup, EngineAlgorithm):
    """Job `refine`."""

    JOB = "refine"

    def name(self):
        return "refinelandcover"

    def displayName(self):
        return tr("Refine land cover")

    def shortDescription(self):
        return tr("Trains a segmentation network on pseudomasks, in rounds, guarded by held-out tags")

    def tags(self):
        return tr("refine,train,deep learning,u-net,unet,segmentation,self-training,pseudomask,land cover,gpu").split(
            ","
        )

    def shortHelpString(self):
        return tr(
            "<p>Trains a segmentation network on the pseudomasks. Each round learns from the masks of the one before; "
            "the tags keep the class shares of every tile honest, and unsure pixels are ignored.</p>"
            "<p>A round counts only if it explains the tags of held-out blocks at least as well as the classifier's "
            "own evidence. The network is always joined with that evidence, at the largest weight that the held-out "
            "tags bear; if no round counts, the model is the evidence alone. The log says so: refinement is no "
            "improvement by itself.</p>"
            "<p>Give a folder for checkpoints to be able to resume a long training.</p>"
        )

    def definitions(self):
        return [
            inputs.tiles(),
            inputs.model(
                "CLASSIFIER",
                tr("Classifier"),
                tr("Classifier (.safetensors) behind the pseudomasks; the refined model has to be at least as good."),
            ),
            fields.raster(
                "PSEUDOMASK", tr("Pseudomask"), tr("Class raster written by “Generate pseudomasks”."), optional=True
            ),
            *learning.refinement(),
            *fields.advanced(
                [
                    fields.folder(
                        "PSEUDOMASK_FOLDER",
                        tr("Folder of pseudomasks"),
                        tr("Masks written for a tile index of separate patches, in place of the raster."),
                    ),
                    inputs.scene_or_index(),
                ]
            ),
            *learning.training(),
            *settings.hardware(),
            *learning.checkpoints(),
            fields.file_output(
                "OUTPUT", tr("Land-cover model"), tr("Model file to write (.safetensors)."), fields.model_filter()
            ),
        ]

    def numbers(self):
        return [
            ("EVIDENCE_TAG_LOSS", "evidence_tag_loss", tr("Loss of held-out tags before refinement")),
            ("TAG_LOSS", "tag_loss", tr("Loss of held-out tags after refinement")),
            ("REFINED_WEIGHT", "refined_weight", tr("Weight of the refined network in the model")),
            ("SECONDS", "seconds", tr("Seconds")),
        ]

    def tell(self, result, feedback):
        feedback.pushInfo(result["decision"])

    def inconsistency(self, parameters, context):
        given = [name for name in ("PSEUDOMASK", "PSEUDOMASK_FOLDER") if parameters.get(name)]
        if len(given) != 1:
            return tr("Give either a pseudomask raster (PSEUDOMASK) or a folder of pseudomasks (PSEUDOMASK_FOLDER).")
        return nothing_to_resume(self, parameters, context)

    def job_request(self, values, outputs):
        request = super().job_request(values, outputs)
        request["pseudomask"] = request.pop("pseudomask_folder", None) or request["pseudomask"]
        return request
