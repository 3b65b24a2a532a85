"""Cut a scene, or a folder of patches, into a tile index."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from sparsevit.errors import InputError
from sparsevit.geodata.layers import read_layer
from sparsevit.geodata.patches import index_patches
from sparsevit.geodata.scene import open_scene
from sparsevit.geodata.tile_index import TileIndex
from sparsevit.geodata.tiling import TilingSettings, cut_scene
from sparsevit.jobs.base import Job, Request, Result, absolute
from sparsevit.outputs import check_distinct, check_writable
from sparsevit.reporting import Reporter


class TilesRequest(Request):
    """Cut a scene, or a folder of patches, into a tile index (GeoPackage)."""

    scene: list[Path] = Field(
        default=[], description="Rasters of the scene. The first gives the grid; the others are warped to it."
    )
    folder: Path | None = Field(default=None, description="Folder of patches, for the layouts dfc2020 and bigearthnet.")
    layout: Literal["scene", "dfc2020", "bigearthnet"] = Field(
        default="scene",
        description="scene: a list of rasters; dfc2020 / bigearthnet: a folder of patches in that layout.",
    )
    band_names: list[str] = Field(
        default=[], description="Names of all bands in order (B02, VV, …), where the files carry none."
    )
    footprints: Path | None = Field(
        default=None, description="Polygons whose centres become the tile centres, instead of a regular grid."
    )
    extent: tuple[float, float, float, float] | None = Field(
        default=None, description="Only tiles inside xmin, ymin, xmax, ymax, in the CRS of the first raster."
    )
    tiling: TilingSettings = TilingSettings()
    output: Path = Field(description="Tile index to write (.gpkg).")


class TilesResult(Result):
    """How many tiles there are, by split."""

    output: str
    tiles: int
    train: int
    validation: int
    test: int
    gap: int
    empty: int


def run(request: TilesRequest, reporter: Reporter) -> TilesResult:
    """Make a tile index.

    Raises:
        InputError: The scene or folder cannot be cut; see the message.
    """
    check_writable(request.output, (".gpkg",))
    check_distinct({"output": request.output}, [*request.scene, request.footprints])
    if request.layout == "scene":
        index, empty = _cut(request, reporter)
    else:
        index, empty = _patches(request, reporter)
    index.write(request.output)
    splits = index.frame["split"].value_counts()
    counts = {split: int(splits.get(split, 0)) for split in ("train", "validation", "test", "gap")}
    if empty:
        reporter.log(f"{empty} tile(s) without enough valid pixels are left out.")
    reporter.progress(1.0, "tiles written")
    return TilesResult(output=absolute(request.output), tiles=len(index), empty=empty, **counts)


def _cut(request: TilesRequest, reporter: Reporter) -> tuple[TileIndex, int]:
    with open_scene(request.scene, request.band_names) as scene:
        centres = None
        if request.footprints is not None:
            centres = _centres(request.footprints, scene.grid.crs, request.extent)
        return cut_scene(scene, request.tiling, reporter, request.extent, centres)


def _patches(request: TilesRequest, reporter: Reporter) -> tuple[TileIndex, int]:
    if request.folder is None:
        raise InputError(f"The layout '{request.layout}' needs a folder of patches.", "folder", "Give the folder.")
    return index_patches(request.folder, request.layout, request.band_names, request.tiling, reporter)


def _centres(path: Path, crs: object, extent: tuple[float, float, float, float] | None) -> npt.NDArray[np.float64]:
    """Centres `[n, 2]` of the polygons' bounding boxes in a CRS; only those inside the extent, if there is one."""
    bounds = read_layer(path, crs, "footprints").bounds.to_numpy()
    centres: npt.NDArray[np.float64] = (bounds[:, :2] + bounds[:, 2:]) / 2
    xmin, ymin, xmax, ymax = extent or (-np.inf, -np.inf, np.inf, np.inf)
    inside = np.isfinite(centres) & (centres >= (xmin, ymin)) & (centres <= (xmax, ymax))
    return centres[inside.all(axis=1)]


JOB = Job("tiles", TilesRequest, run)
