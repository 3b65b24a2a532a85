"""The parameters that say what to work on: scene, class scheme, tags."""

from __future__ import annotations

from ..text import resource, tr
from . import fields

DEFAULT_SCHEME = resource("schemes", "dfc2020.json")


def scene(optional=False, if_empty=""):
    """The rasters of the scene."""
    help_text = tr(
        "Rasters that show the place at one time: Sentinel-2, or Sentinel-2 and Sentinel-1. The first one gives the "
        "pixel grid and the coordinate system of everything that is written; the others may have other resolutions and "
        "systems and are resampled to it. The files must be on this computer and georeferenced."
    )
    return fields.rasters("SCENE", tr("Scene"), f"{help_text} {if_empty}".strip(), optional)


def scene_or_index():
    """The rasters of the scene, or else those that the tile index names."""
    return scene(optional=True, if_empty=tr("Leave empty to read the rasters that the tile index names."))


def band_names():
    """Names of the bands."""
    return fields.text(
        "BAND_NAMES",
        tr("Band names"),
        tr(
            "Names of all bands of all rasters in their order, separated by commas: B02, B03, B04, B08, VV, VH. "
            "Leave empty if the files carry names."
        ),
    )


def extent():
    """A part of the scene."""
    return fields.extent(
        "EXTENT", tr("Extent"), tr("Work only inside this rectangle. Leave empty for the whole scene.")
    )


def scheme(optional=False):
    """The class scheme."""
    text = tr(
        "JSON or CSV file with code (0–254), name and colour of each class. Shipped in the folder of the default: "
        "dfc2020, igbp_simplified, worldcover (ESA WorldCover), dynamic_world, corine_level1. Copy one to make your "
        "own."
    )
    if optional:
        text += " " + tr("Leave empty to use the legend inside the map.")
    return fields.file(
        "SCHEME",
        tr("Class scheme"),
        text,
        tr("Class schemes (*.json *.csv)"),
        None if optional else DEFAULT_SCHEME,
        # QGIS 3.22 takes a file's default for no value at all: a mandatory file would have to be given each time.
        optional=True,
    )


def classes():
    """Some classes only."""
    return fields.text(
        "CLASSES",
        tr("Classes"),
        tr("Use only these classes, names separated by commas. Leave empty for all that occur in the tags."),
    )


def band_choice():
    """Some bands only."""
    return fields.text(
        "BANDS", tr("Bands"), tr("Use only these bands, names separated by commas. Leave empty for all.")
    )


def tag_mapping():
    """From the values of the tags to the scheme."""
    return _mapping("MAPPING", tr("Class mapping"), tr("the tags"))


def reference_mapping(name="MAPPING", label=None):
    """From the values of the reference to the scheme."""
    return _mapping(name, label or tr("Class mapping"), tr("the reference"))


def _mapping(name, label, source):
    text = tr(
        "JSON or two-column CSV file: from each value of {} to a code or name of the scheme. An empty value drops a "
        "class. Leave empty if the values are codes or names of the scheme."
    )
    kinds = tr("Class mappings (*.json *.csv)")
    return fields.file(name, label, text.format(source), kinds, optional=True)


def tag_source(tiles_too=False):
    """Where the tags come from; `tiles_too`: the tile index itself may hold them, and name rasters of patches."""
    layer_help, raster_help = (
        tr("Vector layer with the tags (text, fields, vector)."),
        tr("Categorical raster with the tags (raster)."),
    )
    if tiles_too:
        layer_help += " " + tr("For tags typed into the tile layer choose the tile layer.")
        raster_help += " " + tr("Leave empty for patches with reference rasters of their own.")
    return [
        fields.choice(
            "SOURCE",
            tr("Kind of tags"),
            tr(
                "text: polygons, one per tagged place, with a text field such as “Forest, Water”. "
                "fields: the same with one true/false field per class, named as the class. "
                "vector: polygons or points with one class each. "
                "raster: any categorical raster, coarse or fine; only the share of each class in a tile is used."
            ),
            ["text", "fields", "vector", "raster"],
            "text",
        ),
        fields.features("LAYER", tr("Tag layer"), layer_help),
        fields.field(
            "FIELD",
            tr("Tag field"),
            tr("Field with the class names or codes, separated by commas (text), or with the class (vector)."),
            "LAYER",
        ),
        fields.raster("RASTER", tr("Tag raster"), raster_help, optional=True),
    ]


def tiles():
    """The tagged tile index."""
    return fields.tile_index(
        "TILES", tr("Tile index"), tr("GeoPackage written by “Create tiles” and tagged by “Tag tiles”.")
    )


def model(name="MODEL", label=None, help_text=None):
    """A saved model."""
    return fields.file(
        name,
        label or tr("Model"),
        help_text
        or tr(
            "Model file (.safetensors) written by “Train classifier”, “Refine land cover” or “Map land cover from "
            "tags”."
        ),
        fields.model_filter(),
    )
