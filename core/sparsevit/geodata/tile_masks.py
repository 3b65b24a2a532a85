"""Class masks of tiles, cut out of categorical rasters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sparsevit.geodata.categorical import categories_on, translate
from sparsevit.geodata.scene import open_scene
from sparsevit.geodata.tile_index import TileIndex, check_place, check_replaced, groups

UNLABELLED = -1
"""In masks: pixels whose class is not known; they teach nothing, and are not scored."""


def read_tile_masks(
    index: TileIndex, scene: list[Path], raster_of: Callable[[list[Path]], Path], table: dict[int, int], parameter: str
) -> npt.NDArray[np.int16]:
    """Masks of all tiles `[N, H, W]`: position of the class, -1 where there is none.

    Args:
        index: Tiles of one size.
        scene: Rasters that give the grid instead of those that the index names.
        raster_of: The categorical raster for the rasters of a scene, or of a patch.
        table: From values of the raster to positions of classes.
        parameter: Job field that an error names.

    Raises:
        InputError: A raster is missing or unreadable, has no CRS, or does not overlap the tiles' grid.
    """
    check_replaced(index, scene)
    windows = index.windows()
    masks = np.full((len(index), int(windows[0].height), int(windows[0].width)), UNLABELLED, np.int16)
    for rasters, positions in groups(index):
        with (
            open_scene(scene or rasters, None if scene else index.band_names) as place,
            categories_on(raster_of(rasters), place.grid, parameter) as read,
        ):
            check_place(index, place.grid, place.paths[0])
            for i in positions:
                values, valid = read(windows[i])
                masks[i] = np.where(valid, translate(values, table, UNLABELLED), UNLABELLED)
    return masks
