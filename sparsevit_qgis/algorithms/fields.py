"""Makers of parameters that always carry their help.

A parameter is named as the field of the job in capitals (`tile_size_m` is `TILE_SIZE_M`), so that the toolbox,
`qgis_process` and the engine's command line speak of the same things.
"""

from __future__ import annotations

from qgis.core import (
    QgsProcessing,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingParameterExtent,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterField,
    QgsProcessingParameterFile,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterFolderDestination,
    QgsProcessingParameterMapLayer,
    QgsProcessingParameterMultipleLayers,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorDestination,
    QgsProcessingParameterVectorLayer,
)

from ..text import tr

_RASTER = QgsProcessing.SourceType.TypeRaster
_VECTOR = QgsProcessing.SourceType.TypeVectorAnyGeometry
_POLYGON = QgsProcessing.SourceType.TypeVectorPolygon

# Text parameters that hold several names, separated by commas.
NAME_LISTS = frozenset({"BAND_NAMES", "BANDS", "CLASSES", "ENCODER_BANDS", "SHARES"})


def advanced(parameters):
    """Put parameters under “Advanced parameters” of the dialog."""
    for parameter in parameters:
        parameter.setFlags(parameter.flags() | QgsProcessingParameterDefinition.Flag.FlagAdvanced)
    return parameters


def number(name, label, help_text, default, minimum=None, maximum=None):
    """A number; whole if its default is, optional if it has none."""
    kinds = QgsProcessingParameterNumber.Type
    kind = kinds.Integer if isinstance(default, int) else kinds.Double
    bounds = {key: value for key, value in (("minValue", minimum), ("maxValue", maximum)) if value is not None}
    parameter = QgsProcessingParameterNumber(name, label, kind, default, default is None, **bounds)
    return _explained(parameter, help_text)


def share(name, label, help_text, default, maximum=1.0):
    """A number from 0 to 1."""
    return number(name, label, help_text, default, 0.0, maximum)


def choice(name, label, help_text, options, default):
    """One of some words; words and not positions, so that a command line stays right when options are added."""
    parameter = QgsProcessingParameterEnum(name, label, options, False, default, usesStaticStrings=True)
    if not all(option in help_text for option in options):
        help_text = tr("{} One of: {}.").format(help_text, ", ".join(options))
    return _explained(parameter, help_text)


def switch(name, label, help_text, default):
    """Yes or no."""
    return _explained(QgsProcessingParameterBoolean(name, label, default), help_text)


def text(name, label, help_text, default=None):
    """A text, or several names separated by commas; optional if it has no default."""
    return _explained(QgsProcessingParameterString(name, label, default, optional=default is None), help_text)


def extent(name, label, help_text):
    """An optional rectangle."""
    return _explained(QgsProcessingParameterExtent(name, label, optional=True), help_text)


def rasters(name, label, help_text, optional=False):
    """A list of rasters; their order matters."""
    return _explained(QgsProcessingParameterMultipleLayers(name, label, _RASTER, optional=optional), help_text)


def raster(name, label, help_text, optional=False):
    """One raster."""
    return _explained(QgsProcessingParameterRasterLayer(name, label, optional=optional), help_text)


def features(name, label, help_text):
    """Optional features of any vector layer; all or the selected ones."""
    return _explained(QgsProcessingParameterFeatureSource(name, label, [_VECTOR], optional=True), help_text)


def polygons(name, label, help_text):
    """Optional polygons; all of a layer or the selected ones."""
    return _explained(QgsProcessingParameterFeatureSource(name, label, [_POLYGON], optional=True), help_text)


def tile_index(name, label, help_text, optional=False):
    """A tile index, as the file that it is: tags may be written into it."""
    return _explained(QgsProcessingParameterVectorLayer(name, label, [_POLYGON], optional=optional), help_text)


def raster_or_vector(name, label, help_text, optional=False):
    """A raster, points or polygons.

    A field of such a layer is a `text`: dialogs of QGIS 3.22 crash when a `field`'s layer turns out to be a raster.
    """
    parameter = QgsProcessingParameterMapLayer(name, label, optional=optional, types=[_RASTER, _VECTOR])
    return _explained(parameter, help_text)


def field(name, label, help_text, layer):
    """An optional field of a vector layer."""
    return _explained(QgsProcessingParameterField(name, label, None, layer, optional=True), help_text)


def file(name, label, help_text, file_filter, default=None, optional=False):
    """A file that must exist."""
    parameter = QgsProcessingParameterFile(name, label, defaultValue=default, optional=optional, fileFilter=file_filter)
    return _explained(parameter, help_text)


def folder(name, label, help_text):
    """An optional folder that must exist."""
    kind = QgsProcessingParameterFile.Behavior.Folder
    return _explained(QgsProcessingParameterFile(name, label, kind, optional=True), help_text)


def raster_output(name, label, help_text, optional=False):
    """A raster to write; an optional one is written on request only."""
    parameter = QgsProcessingParameterRasterDestination(name, label, None, optional, createByDefault=not optional)
    return _explained(parameter, help_text)


def polygons_output(name, label, help_text, optional=False):
    """A polygon layer to write."""
    return _explained(QgsProcessingParameterVectorDestination(name, label, _POLYGON, None, optional), help_text)


def tile_index_output(name, label, help_text, optional=False):
    """A tile index to write."""
    return polygons_output(name, label, help_text, optional)


def file_output(name, label, help_text, file_filter, optional=False, by_default=False):
    """A file to write; an optional one is written on request only, unless the dialog asks for it by default."""
    created = by_default or not optional
    parameter = QgsProcessingParameterFileDestination(name, label, file_filter, None, optional, created)
    return _explained(parameter, help_text)


def folder_output(name, label, help_text):
    """An optional folder to write to, on request only."""
    return _explained(QgsProcessingParameterFolderDestination(name, label, None, True, False), help_text)


def model_filter():
    """The file filter of models."""
    return tr("SparseViT models (*.safetensors)")


def html_filter():
    """The file filter of reports."""
    return tr("HTML files (*.html)")


def json_filter():
    """The file filter of numbers to read by programs."""
    return tr("JSON files (*.json)")


def _explained(parameter, help_text):
    parameter.setHelp(help_text)
    return parameter
