"""From parameter values as QGIS gives them to the plain values of a job's request."""

from __future__ import annotations

import os

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsMapLayerType,
    QgsProcessing,
    QgsProcessingException,
    QgsProcessingFeatureSourceDefinition,
    QgsProcessingOutputLayerDefinition,
    QgsProviderRegistry,
)

from .fields import NAME_LISTS

# Formats that the engine reads as they are; other vector layers, selections and filters are copied to a GeoPackage.
_VECTOR_FORMATS = ["gpkg", "shp", "geojson", "json", "fgb"]


def request_of(algorithm, parameters, context, feedback):
    """The inputs of an algorithm as a request: the job's field names in place of the parameter names.

    Parameters without a value are left out, so that the engine's default holds. Layers become absolute paths, because
    the worker has another working directory.
    """
    request = {}
    for definition in algorithm.parameterDefinitions():
        name = definition.name()
        if definition.isDestination():
            continue
        value = _READERS[definition.type()](algorithm, name, parameters, context, feedback)
        if value is None and parameters.get(name) not in (None, ""):
            raise QgsProcessingException(algorithm.invalidSourceError(parameters, name))
        if name in NAME_LISTS:
            value = [part.strip() for part in (value or "").split(",") if part.strip()]
        if value not in (None, "", []):
            request[name.lower()] = value
    return request


def destinations_of(algorithm, parameters, context):
    """The outputs that are asked for: parameter name → path.

    Must be called once per run: QGIS draws a new temporary name at each call.
    """
    paths = {}
    for definition in algorithm.destinationParameterDefinitions():
        is_layer = definition.type() in ("rasterDestination", "vectorDestination")
        read = algorithm.parameterAsOutputLayer if is_layer else algorithm.parameterAsFileOutput
        path = read(parameters, definition.name(), context)
        if path:
            paths[definition.name()] = path
    return paths


def raster_path(layer):
    """The absolute path of a raster layer's file, or an empty string if it is not one file that GDAL reads."""
    if layer.dataProvider() is None or layer.dataProvider().name() != "gdal":
        return ""
    parts = QgsProviderRegistry.instance().decodeUri("gdal", layer.source())
    if parts.get("vsiPrefix") or parts.get("layerName"):  # inside an archive or a database
        return ""
    path = parts.get("path", "")
    return os.path.abspath(path) if os.path.isfile(path) else ""


def vector_path(layer):
    """The absolute path of a vector layer's file, or an empty string if it is not one."""
    if layer.dataProvider() is None or layer.dataProvider().name() != "ogr":
        return ""
    path = QgsProviderRegistry.instance().decodeUri("ogr", layer.source()).get("path", "")
    return os.path.abspath(path) if os.path.isfile(path) else ""


def vector_layer(algorithm, name, parameters, context):
    """The layer of a vector parameter, also where only its selected features are asked for."""
    value = parameters.get(name)
    if isinstance(value, QgsProcessingFeatureSourceDefinition):
        parameters = {**parameters, name: value.source.staticValue()}
    return algorithm.parameterAsVectorLayer(parameters, name, context)


def destination_path(value):
    """The path in a destination's raw value, or an empty string for a temporary or no output."""
    if isinstance(value, QgsProcessingOutputLayerDefinition):
        value = value.sink.staticValue()
    if not isinstance(value, str) or value in ("", QgsProcessing.TEMPORARY_OUTPUT):
        return ""
    return os.path.abspath(value)


def grid_crs(algorithm, parameters, context):
    """The coordinate system of the first raster, or else of the tile index."""
    names = {definition.name() for definition in algorithm.parameterDefinitions()}
    layers = algorithm.parameterAsLayerList(parameters, "SCENE", context) if "SCENE" in names else []
    if not layers and "TILES" in names:
        layers = [algorithm.parameterAsVectorLayer(parameters, "TILES", context)]
    return layers[0].crs() if layers and layers[0] is not None else QgsCoordinateReferenceSystem()


def _rasters(algorithm, name, parameters, context, feedback):
    return [raster_path(layer) for layer in algorithm.parameterAsLayerList(parameters, name, context)]


def _raster(algorithm, name, parameters, context, feedback):
    layer = algorithm.parameterAsRasterLayer(parameters, name, context)
    return raster_path(layer) if layer is not None else None


def _tile_index(algorithm, name, parameters, context, feedback):
    layer = algorithm.parameterAsVectorLayer(parameters, name, context)
    return vector_path(layer) if layer is not None else None


def _features(algorithm, name, parameters, context, feedback):
    layer = vector_layer(algorithm, name, parameters, context)
    if layer is None:
        return None
    path, inner = algorithm.parameterAsCompatibleSourceLayerPathAndLayerName(
        parameters, name, context, _VECTOR_FORMATS, "gpkg", feedback
    )
    path = os.path.abspath(path)
    copied = path != vector_path(layer)  # a copy has one layer, of another name
    return path if copied or not inner or not path.lower().endswith(".gpkg") else f"{path}|layername={inner}"


def _raster_or_vector(algorithm, name, parameters, context, feedback):
    layer = algorithm.parameterAsLayer(parameters, name, context)
    if layer is None:
        return None
    read = _raster if layer.type() == QgsMapLayerType.RasterLayer else _features
    return read(algorithm, name, parameters, context, feedback)


def _file(algorithm, name, parameters, context, feedback):
    path = algorithm.parameterAsFile(parameters, name, context) or algorithm.parameterDefinition(name).defaultValue()
    return os.path.abspath(path) if path else None


def _extent(algorithm, name, parameters, context, feedback):
    box = algorithm.parameterAsExtent(parameters, name, context, grid_crs(algorithm, parameters, context))
    return None if box.isNull() else [box.xMinimum(), box.yMinimum(), box.xMaximum(), box.yMaximum()]


def _number(algorithm, name, parameters, context, feedback):
    definition = algorithm.parameterDefinition(name)
    if not algorithm.parameterAsString(parameters, name, context):  # nothing would be read as 0
        return None
    is_whole = definition.dataType() == type(definition).Type.Integer
    read = algorithm.parameterAsInt if is_whole else algorithm.parameterAsDouble
    return read(parameters, name, context)


def _boolean(algorithm, name, parameters, context, feedback):
    return algorithm.parameterAsBoolean(parameters, name, context)


def _enum(algorithm, name, parameters, context, feedback):
    return algorithm.parameterAsEnumString(parameters, name, context)


def _string(algorithm, name, parameters, context, feedback):
    return algorithm.parameterAsString(parameters, name, context)


_READERS = {
    "multilayer": _rasters,
    "raster": _raster,
    "vector": _tile_index,
    "source": _features,
    "layer": _raster_or_vector,
    "file": _file,
    "extent": _extent,
    "number": _number,
    "boolean": _boolean,
    "enum": _enum,
    "string": _string,
    "field": _string,
}
