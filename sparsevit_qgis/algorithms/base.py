"""What all algorithms share: each does one job of the engine."""

from __future__ import annotations

import os

from qgis.core import (
    QgsMapLayerType,
    QgsProcessingAlgorithm,
    QgsProcessingException,
    QgsProcessingOutputLayerDefinition,
    QgsProcessingOutputNumber,
)
from qgis.PyQt.QtGui import QIcon

from ..engine import interpreter, worker
from ..text import resource, tr
from . import checks, layers
from .request import destinations_of, request_of, vector_layer, vector_path
from .wording import in_words_of_qgis


class EngineAlgorithm(QgsProcessingAlgorithm):
    """A job of the engine as a Processing algorithm.

    A subclass says which job, which parameters and which numbers. A parameter is named as the job's field in capitals,
    so there is nothing else to connect.
    """

    JOB = ""

    def definitions(self):
        """The parameter definitions, in the order of the dialog."""
        raise NotImplementedError

    def numbers(self):
        """The output numbers: `(output name, field of the job's result, label)`."""
        return []

    def inconsistency(self, parameters, context):
        """Why these values cannot work together, in one sentence; empty if they can."""
        return ""

    def job_request(self, inputs, outputs):
        """The request of the job, from the inputs and the paths to write; a subclass renames what differs."""
        return {**inputs, **{name.lower(): os.path.abspath(path) for name, path in outputs.items()}}

    def tell(self, result, feedback):
        """Say in the log what a user wants to know of a result."""

    def createInstance(self):
        return type(self)()

    def initAlgorithm(self, configuration=None):
        for definition in self.definitions():
            self.addParameter(definition)
        for name, _field, label in self.numbers():
            self.addOutput(QgsProcessingOutputNumber(name, label))

    def canExecute(self):
        """Grey the algorithm out in the toolbox when the engine is not set up."""
        try:
            interpreter.find()
        except QgsProcessingException as err:
            return False, str(err)
        return True, ""

    def checkParameterValues(self, parameters, context):
        """Refuse what cannot work before anything starts; `qgis_process` prints the reason and exits with 1."""
        try:
            interpreter.version(interpreter.find())
        except QgsProcessingException as err:
            return False, str(err)
        problem = checks.first_problem(self, parameters, context)
        if problem:
            return False, problem
        fine, message = super().checkParameterValues(parameters, context)
        if not fine:
            return False, message
        problem = self.inconsistency(parameters, context)
        return not problem, problem

    def prepareAlgorithm(self, parameters, context, feedback):
        """Turn layers into plain values here, in the main thread, where layers live."""
        self._inputs = request_of(self, parameters, context, feedback)
        return True

    def processAlgorithm(self, parameters, context, feedback):
        outputs = destinations_of(self, parameters, context)
        request = self.job_request(self._inputs, outputs)
        try:
            writes = [*outputs.values(), self._inputs.get("tiles", "")]  # some algorithms write into their tiles
            result = worker.run_job(interpreter.find(), self.JOB, request, feedback, writes)
        except QgsProcessingException as err:
            names = {definition.name() for definition in self.parameterDefinitions()}
            raise QgsProcessingException(in_words_of_qgis(str(err), names)) from err
        self.tell(result, feedback)
        # An optional output that could not be written after all is null in the result.
        outputs = {name: path for name, path in outputs.items() if result.get(name.lower(), path) is not None}
        layers.arrange(self, outputs, context)
        return {**outputs, **{name: result.get(field) for name, field, _label in self.numbers()}}

    def icon(self):
        return QIcon(self.svgIconPath())

    def svgIconPath(self):
        return resource("icons", "sparsevit.svg")

    def helpUrl(self):
        return "https://github.com/sparsevit/sparsevit-landcover"


class MapGroup:
    """The algorithms that make and judge maps."""

    def group(self):
        return tr("Maps")

    def groupId(self):
        return "maps"


class TrainingGroup:
    """The steps from tags to a model, one by one."""

    def group(self):
        return tr("Step by step")

    def groupId(self):
        return "steps"


class IntoTiles:
    """The algorithms that write into the tile index itself unless another output is given."""

    def checkParameterValues(self, parameters, context):
        fine, message = super().checkParameterValues(parameters, context)
        output = parameters.get("OUTPUT")
        if isinstance(output, QgsProcessingOutputLayerDefinition):  # as batch dialogs say it, even if nothing is given
            output = output.sink.staticValue()
        layer = vector_layer(self, "TILES", parameters, context) if fine and not output else None
        # While it is edited QGIS keeps pages of the old file, which would come back over the new one.
        if layer is not None and layer.isEditable():
            return False, tr("{}: layer '{}' is being edited; save it and end editing first.").format(
                checks.label(self, "TILES"), layer.name()
            )
        return fine, message

    def processAlgorithm(self, parameters, context, feedback):
        results = super().processAlgorithm(parameters, context, feedback)
        return {"OUTPUT": self._inputs["tiles"], **results}

    def postProcessAlgorithm(self, context, feedback):
        """Show what is new in a layer of the project that is the file that was written."""
        layers_of_project = context.project().mapLayers().values() if context.project() else ()
        for layer in layers_of_project:
            if layer.type() == QgsMapLayerType.VectorLayer and vector_path(layer) == self._inputs["tiles"]:
                layer.dataProvider().reloadData()
                layer.updateFields()
        return {}
