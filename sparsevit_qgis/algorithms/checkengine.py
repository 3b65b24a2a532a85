"""Say whether the engine can work on this computer."""

from __future__ import annotations

from qgis.core import QgsProcessingException, QgsProcessingOutputString

from ..text import tr
from . import fields
from .base import EngineAlgorithm


class CheckEngine(EngineAlgorithm):
    """Job `check`."""

    JOB = "check"

    def name(self):
        return "checkengine"

    def displayName(self):
        return tr("Check engine")

    def group(self):
        return tr("Engine")

    def groupId(self):
        return "engine"

    def shortDescription(self):
        return tr("Shows the engine's versions, devices, memory and free disk, and whether it can work")

    def tags(self):
        return tr("engine,environment,gpu,cuda,device,version,torch,pytorch,diagnose,installation").split(",")

    def shortHelpString(self):
        return tr(
            "<p>Starts the engine and shows its versions, the devices it can compute on, memory and free disk space. "
            "Fails with the reason when the engine cannot work.</p>"
            "<p>The engine is a Python package of its own, in its own environment. Set its interpreter in Settings → "
            "Options → Processing → Providers → SparseViT Land Cover, or in the environment variable "
            "SPARSEVIT_PYTHON.</p>"
        )

    def definitions(self):
        return [
            fields.number(
                "MINIMUM_DISK_GB",
                tr("Free disk space needed (GB)"),
                tr("The check fails with less free space (GB)."),
                1.0,
                0.0,
            )
        ]

    def numbers(self):
        return [
            ("THREADS", "threads", tr("Processor threads used")),
            ("FREE_DISK_GB", "free_disk_gb", tr("Free disk space (GB)")),
        ]

    def initAlgorithm(self, configuration=None):
        super().initAlgorithm(configuration)
        self.addOutput(QgsProcessingOutputString("ENGINE", tr("Version of the engine")))
        self.addOutput(QgsProcessingOutputString("DEVICE", tr("Preferred device")))

    def processAlgorithm(self, parameters, context, feedback):
        results = super().processAlgorithm(parameters, context, feedback)
        return {**results, "ENGINE": self._result["engine"], "DEVICE": self._result["devices"][0]["name"]}

    def tell(self, result, feedback):
        self._result = result
        feedback.pushInfo(tr("Engine {}, Python {}").format(result["engine"], result["python"]))
        for name, version in result["versions"].items():
            feedback.pushInfo(f"  {name} {version}")
        for device in result["devices"]:
            units = tr("yes") if device["bf16"] else tr("no")
            text = tr("{name}: {memory_gb:.1f} GB, matrix units for bf16: {units}")
            feedback.pushInfo(text.format(units=units, **device))
        if not result["ok"]:
            raise QgsProcessingException(" ".join(result["problems"]))
