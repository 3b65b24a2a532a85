"""What can be known to fail before a run starts, each as one sentence that names the parameter and what to do."""

from __future__ import annotations

import difflib
import os

from qgis.core import QgsMapLayer, QgsProcessingFeatureSourceDefinition, QgsVectorLayer

from ..text import tr
from .request import destination_path, grid_crs, raster_path, vector_layer, vector_path


def first_problem(algorithm, parameters, context):
    """The first reason why a run cannot work; empty if there is none."""
    problem = _unknown_name(algorithm, parameters)
    inputs = {}
    for definition in algorithm.parameterDefinitions():
        if problem:
            return problem
        value = parameters.get(definition.name())
        if value in (None, "", []) or definition.isDestination():
            continue
        check = _INPUT_CHECKS.get(definition.type())
        if check is not None:
            problem = check(algorithm, definition, parameters, context, inputs)
    return problem or _bad_destination(algorithm, parameters, inputs)


def missing(algorithm, parameters, *names):
    """The sentence for the first of some parameters that has no value; empty if all have one."""
    for name in names:
        if parameters.get(name) in (None, "", []):
            return tr("{} is needed here: please give it.").format(label(algorithm, name))
    return ""


def no_class_field(algorithm, parameters, context, name):
    """The sentence for a vector reference whose class field, the parameter `name`, it does not have."""
    reference = algorithm.parameterAsLayer(parameters, "REFERENCE", context)
    if not isinstance(reference, QgsVectorLayer):
        return ""
    if reference.fields().lookupField(algorithm.parameterAsString(parameters, name, context)) >= 0:
        return ""
    return tr("{}: choose the class field of '{}'; it has: {}.").format(
        label(algorithm, name), reference.name(), ", ".join(reference.fields().names())
    )


def nothing_to_resume(algorithm, parameters, context):
    """The sentence for a training that is to go on, but has no folder of checkpoints; empty if it can."""
    resume = algorithm.parameterAsBoolean(parameters, "RESUME", context)
    return missing(algorithm, parameters, "CHECKPOINTS") if resume else ""


def label(algorithm, name):
    """A parameter as users know it: the words of the dialog and the name of the command line."""
    return "{} ({})".format(algorithm.parameterDefinition(name).description(), name)


def _unknown_name(algorithm, parameters):
    """QGIS ignores unknown names: a mistyped parameter would silently run with its default."""
    known = [definition.name() for definition in algorithm.parameterDefinitions()]
    for name in parameters:
        if name not in known:
            alike = difflib.get_close_matches(name.upper(), known, 1)
            advice = tr("did you mean {}?").format(alike[0]) if alike else tr("it has: {}.").format(", ".join(known))
            return tr("{} has no parameter {}; {}").format(algorithm.id(), name, advice)
    return ""


def _raster(algorithm, definition, parameters, context, inputs):
    layer = algorithm.parameterAsRasterLayer(parameters, definition.name(), context)
    return _raster_problem(algorithm, definition, layer, parameters[definition.name()], inputs)


def _rasters(algorithm, definition, parameters, context, inputs):
    given = parameters[definition.name()]
    for value in given if isinstance(given, (list, tuple)) else str(given).split(";"):
        single = {**parameters, definition.name(): [value]}
        layer = next(iter(algorithm.parameterAsLayerList(single, definition.name(), context)), None)
        problem = _raster_problem(algorithm, definition, layer, value, inputs)
        if problem:
            return problem
    return ""


def _raster_problem(algorithm, definition, layer, value, inputs):
    name = label(algorithm, definition.name())
    if layer is None or not layer.isValid():
        return _unreadable(name, value, tr("a raster"))
    path = raster_path(layer)
    if not path:
        return tr("{}: layer '{}' is not a raster file on this computer; save it as a GeoTIFF first.").format(
            name, layer.name()
        )
    if not layer.crs().isValid():
        return tr("{}: raster '{}' has no coordinate system; give it one with “Assign projection”.").format(name, path)
    inputs[path] = definition.name()
    return ""


def _vector(algorithm, definition, parameters, context, inputs):
    layer = vector_layer(algorithm, definition.name(), parameters, context)
    return _vector_problem(algorithm, definition, layer, parameters[definition.name()], inputs)


def _vector_problem(algorithm, definition, layer, value, inputs):
    name = label(algorithm, definition.name())
    if layer is None or not layer.isValid():
        return _unreadable(name, value, tr("a vector layer"))
    path = vector_path(layer)
    if layer.isEditable() and layer.isModified():
        return tr("{}: layer '{}' has edits that are not saved; save them first.").format(name, layer.name())
    if definition.name() == "TILES" and not path.lower().endswith(".gpkg"):
        return tr("{}: '{}' is not a GeoPackage; make a tile index with “Create tiles”.").format(name, layer.source())
    if layer.isSpatial() and not layer.crs().isValid():
        return tr("{}: layer '{}' has no coordinate system; give it one in its properties.").format(name, layer.name())
    if path:
        inputs[path] = definition.name()
    return ""


def _raster_or_vector(algorithm, definition, parameters, context, inputs):
    layer = algorithm.parameterAsLayer(parameters, definition.name(), context)
    check = _vector_problem if isinstance(layer, QgsVectorLayer) else _raster_problem
    return check(algorithm, definition, layer, parameters[definition.name()], inputs)


def _unreadable(name, value, kind):
    if isinstance(value, QgsProcessingFeatureSourceDefinition):
        value = value.source.staticValue()
    value = value.name() if isinstance(value, QgsMapLayer) else str(value)
    path = value.split("|")[0]
    if os.path.exists(path):
        return tr("{}: '{}' cannot be read as {}; the file may be damaged or of another kind.").format(
            name, value, kind
        )
    return tr("{}: '{}' does not exist; give the path of a file or the name of a layer of the project.").format(
        name, value
    )


def _file(algorithm, definition, parameters, context, inputs):
    name = label(algorithm, definition.name())
    path = os.path.abspath(algorithm.parameterAsFile(parameters, definition.name(), context))
    if definition.behavior() == type(definition).Behavior.Folder:
        return "" if os.path.isdir(path) else tr("{}: folder '{}' does not exist.").format(name, path)
    if not os.path.isfile(path):
        return tr("{}: file '{}' does not exist.").format(name, path)
    if not os.access(path, os.R_OK):
        return tr("{}: file '{}' cannot be read; check its permissions.").format(name, path)
    inputs[path] = definition.name()
    return ""


def _enum(algorithm, definition, parameters, context, inputs):
    value = parameters[definition.name()]
    if isinstance(value, str) and value not in definition.options():
        return tr("{}: '{}' is not one of {}.").format(
            label(algorithm, definition.name()), value, ", ".join(definition.options())
        )
    return ""


def _number(algorithm, definition, parameters, context, inputs):
    try:
        value = float(parameters[definition.name()])
    except (TypeError, ValueError):  # an expression or a text: QGIS's own check deals with it
        return ""
    if definition.minimum() <= value <= definition.maximum():
        return ""
    bound = definition.minimum() if value < definition.minimum() else definition.maximum()
    sentence = tr("{}: {:g} is too small, {:g} is the smallest value.")
    if value > bound:
        sentence = tr("{}: {:g} is too large, {:g} is the largest value.")
    return sentence.format(label(algorithm, definition.name()), value, bound)


def _extent(algorithm, definition, parameters, context, inputs):
    layers = algorithm.parameterAsLayerList(parameters, "SCENE", context) if parameters.get("SCENE") else []
    box = algorithm.parameterAsExtent(parameters, definition.name(), context, grid_crs(algorithm, parameters, context))
    if layers and not box.isNull() and not box.intersects(layers[0].extent()):
        return tr("{}: the rectangle lies outside the first raster, '{}'.").format(
            label(algorithm, definition.name()), layers[0].name()
        )
    return ""


_INPUT_CHECKS = {
    "raster": _raster,
    "multilayer": _rasters,
    "vector": _vector,
    "source": _vector,
    "layer": _raster_or_vector,
    "file": _file,
    "enum": _enum,
    "number": _number,
    "extent": _extent,
}


def _bad_destination(algorithm, parameters, inputs):
    taken = {_same(path): name for path, name in inputs.items()}
    for definition in algorithm.destinationParameterDefinitions():
        path = destination_path(parameters.get(definition.name()))
        if not path:
            continue
        name = label(algorithm, definition.name())
        problem = _unwritable(name, path, definition)
        if problem:
            return problem
        other = taken.setdefault(_same(path), definition.name())
        if other != definition.name():
            return tr("{}: '{}' is also {}; write to another file.").format(name, path, label(algorithm, other))
    return ""


_SUFFIXES = {"rasterDestination": (".tif", ".tiff"), "vectorDestination": (".gpkg",), "folderDestination": ""}


def _unwritable(name, path, definition):
    folder = os.path.dirname(path)
    suffix = _SUFFIXES.get(definition.type(), definition.defaultFileExtension())
    if suffix and not path.lower().endswith(suffix):
        return tr("{}: '{}' must end with {}.").format(
            name, path, suffix[0] if isinstance(suffix, tuple) else "." + suffix
        )
    if not os.path.isdir(folder):
        return tr("{}: folder '{}' does not exist; make it first.").format(name, folder)
    if not os.access(folder, os.W_OK):
        return tr("{}: folder '{}' cannot be written to; choose another one.").format(name, folder)
    if definition.type() != "folderDestination" and os.path.isdir(path):
        return tr("{}: '{}' is a folder; give the name of a file.").format(name, path)
    if os.path.isfile(path) and not os.access(path, os.W_OK):
        return tr("{}: file '{}' is write-protected.").format(name, path)
    return ""


def _same(path):
    """A key that is equal for two spellings of the same file."""
    return os.path.normcase(os.path.realpath(path))
