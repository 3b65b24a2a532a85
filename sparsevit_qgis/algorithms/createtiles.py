"""Cut a scene, or a folder of patches, into a tile index."""

from __future__ import annotations

from ..text import tr
from . import fields, inputs, settings
from .base import EngineAlgorithm, TrainingGroup
from .checks import label, missing


class CreateTiles(TrainingGroup, EngineAlgorithm):
    """Job `tiles`."""

    JOB = "tiles"

    def name(self):
        return "createtiles"

    def displayName(self):
        return tr("Create tiles")

    def shortDescription(self):
        return tr("Cuts a scene into tiles that can be tagged, and splits them for training and validation")

    def tags(self):
        return tr(
            "tiles,chips,patches,grid,split,training,validation,tile index,sentinel-2,sentinel-1,land cover"
        ).split(",")

    def shortHelpString(self):
        return tr(
            "<p>Cuts a scene into square tiles, or lists a folder of image patches, and writes them as a polygon "
            "layer: the <b>tile index</b>. Look at it, style it, and tag its tiles in the table or with “Tag "
            "tiles”.</p>"
            "<p>Whole blocks of neighbouring tiles go to training, validation or test, with a gap between them, "
            "because neighbours resemble each other. Tiles that are mostly empty are left out.</p>"
        )

    def definitions(self):
        return [
            inputs.scene(optional=True, if_empty=tr("Leave empty for a folder of patches.")),
            fields.choice(
                "LAYOUT",
                tr("Layout"),
                tr(
                    "scene: the rasters above. dfc2020: a folder in the layout of DFC2020 and SEN12MS. "
                    "bigearthnet: a folder of patches with each band in a file of its own."
                ),
                ["scene", "dfc2020", "bigearthnet"],
                "scene",
            ),
            fields.folder("FOLDER", tr("Folder of patches"), tr("For the layouts dfc2020 and bigearthnet.")),
            inputs.extent(),
            fields.polygons(
                "FOOTPRINTS",
                tr("Footprints"),
                tr("Polygons whose centres become the centres of the tiles, in place of a regular grid."),
            ),
            *fields.advanced([inputs.band_names()]),
            *settings.tiling(),
            fields.tile_index_output("OUTPUT", tr("Tiles"), tr("Tile index to write (.gpkg).")),
        ]

    def numbers(self):
        return [
            ("TILES", "tiles", tr("Number of tiles")),
            ("TRAIN", "train", tr("Tiles for training")),
            ("VALIDATION", "validation", tr("Tiles for validation")),
            ("TEST", "test", tr("Tiles for the final test")),
            ("GAP", "gap", tr("Tiles in the gaps between splits")),
            ("EMPTY", "empty", tr("Tiles left out because they hold too few valid pixels")),
        ]

    def inconsistency(self, parameters, context):
        layout = self.parameterAsEnumString(parameters, "LAYOUT", context)
        if layout == "scene":
            unused = [name for name in ("FOLDER",) if parameters.get(name)]
            needed = missing(self, parameters, "SCENE")
        else:
            unused = [name for name in ("SCENE", "EXTENT", "FOOTPRINTS") if parameters.get(name)]
            needed = missing(self, parameters, "FOLDER")
        if unused:
            return tr("{} does not go with the layout '{}'; leave it empty.").format(label(self, unused[0]), layout)
        return needed
