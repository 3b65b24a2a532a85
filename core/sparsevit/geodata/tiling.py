"""Cutting a scene into tiles, and splitting them by spatial blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import shapely
from pydantic import Field
from pydantic.dataclasses import dataclass
from rasterio.windows import Window

from sparsevit.errors import InputError
from sparsevit.geodata.scene import Grid, Scene
from sparsevit.geodata.tile_index import SPLITS, TileIndex
from sparsevit.reporting import Reporter
from sparsevit.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class TilingSettings:
    """How a scene is cut into tiles and how the tiles are split."""

    tile_size_m: float = Field(default=640.0, gt=0, description="Side of the square tiles (m).")
    overlap_m: float = Field(default=0.0, ge=0, description="Overlap of neighbouring tiles (m).")
    min_valid: float = Field(
        default=0.5, ge=0, le=1, description="Tiles with a smaller share of valid pixels are left out (0–1)."
    )
    block_size_m: float = Field(
        default=2560.0, gt=0, description="Side of the spatial blocks that go to one split as a whole (m)."
    )
    gap_m: float = Field(
        default=100.0,
        ge=0,
        description="Tiles of two splits are at least this far apart (m); tiles in between belong to no split.",
    )
    validation_share: float = Field(default=0.2, ge=0, lt=1, description="Share of the blocks held out for validation.")
    test_share: float = Field(default=0.0, ge=0, lt=1, description="Share of the blocks held out for the final test.")
    split_seed: int = Field(default=0, ge=0, description="Seed of the draw of blocks.")


def cut_scene(
    scene: Scene,
    settings: TilingSettings,
    reporter: Reporter,
    extent: tuple[float, float, float, float] | None = None,
    centres: npt.NDArray[np.float64] | None = None,
) -> tuple[TileIndex, int]:
    """Cut a scene into square tiles.

    Args:
        scene: The scene; read once, a row of tiles at a time.
        settings: Tile size and split.
        reporter: Progress.
        extent: Only tiles inside these bounds (CRS of the scene).
        centres: Tile centres `[n, 2]` in the CRS of the scene, instead of a regular grid.

    Returns:
        The index, and the number of tiles left out because they are mostly nodata.

    Raises:
        InputError: The scene or the extent is smaller than a tile, or every tile is empty.
    """
    grid = scene.grid
    side = max(round(settings.tile_size_m / grid.gsd), 1)
    if side > min(grid.width, grid.height):
        raise InputError(
            f"The scene ({grid.width} × {grid.height} pixels) is smaller than one tile of {settings.tile_size_m:g} m.",
            "tile_size_m",
            f"Choose at most {min(grid.width, grid.height) * grid.gsd:g} m.",
        )
    corners = _regular_corners(grid, side, settings, extent) if centres is None else _corners_at(centres, grid, side)
    valid = _valid_share(scene, corners, side, reporter)
    keep = valid >= max(settings.min_valid, 1e-9)
    if not keep.any():
        raise InputError(
            f"No tile has {settings.min_valid:.0%} valid pixels.",
            "scene",
            "Check the nodata value, or lower 'min_valid'.",
        )
    corners, valid = corners[keep], valid[keep]
    t = grid.transform
    boxes = [_footprint(t, int(r), int(c), side) for r, c in corners]
    columns = {
        "tile_id": np.arange(len(corners), dtype=np.int32),
        "row": corners[:, 0].astype(np.int32),
        "col": corners[:, 1].astype(np.int32),
        "height": np.int32(side),
        "width": np.int32(side),
        "valid": np.round(valid, 4),
        "split": split_by_blocks((corners[:, ::-1] * grid.gsd).astype(float), side * grid.gsd, settings),
    }
    frame = geopandas.GeoDataFrame(columns, geometry=boxes, crs=grid.crs.to_wkt())
    return TileIndex(frame, scene.paths, scene.names, side * grid.gsd), int((~keep).sum())


def split_by_blocks(
    corners_m: npt.NDArray[np.float64], side_m: float, settings: TilingSettings
) -> npt.NDArray[np.object_]:
    """Assign tiles to splits by spatial blocks, never by random pixels or tiles.

    Each square block goes to one split as a whole. A training tile that comes within `gap_m` of a held-out block
    belongs to `gap` (and so do a validation tile near a test block and a tile that straddles blocks of two splits), so
    that tiles of two splits are at least `gap_m` apart.

    Args:
        corners_m: Top-left corners `[tiles, 2]` (x to the right, y down, m).
        side_m: Side of the tiles (m).
        settings: Block size, gap, shares and seed.

    Returns:
        One of `train`, `validation`, `test`, `gap` per tile.
    """

    def block_at(x_y: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        return np.floor(x_y / settings.block_size_m + 1e-9).astype(np.int64)

    def blocks_within(margin: float) -> Iterator[list[tuple[int, int]]]:
        """Yield a block of each tile at a time, until all that come within `margin` of it have had their turn."""
        first, last = block_at(corners_m - margin), block_at(corners_m + side_m + margin - 1e-3)
        reach = int((last - first).max(initial=0)) + 1
        for step in np.ndindex(reach, reach):
            yield [(int(x), int(y)) for x, y in np.minimum(first + step, last)]

    touched = sorted({block for blocks in blocks_within(0.0) for block in blocks})
    split_of = _draw_blocks(touched, settings)
    splits = np.array([split_of[int(x), int(y)] for x, y in block_at(corners_m + side_m / 2)], dtype=object)
    rank = np.array([SPLITS.index(s) for s in splits])
    for margin, conflict in ((0.0, np.not_equal), (settings.gap_m, np.greater)):
        for blocks in blocks_within(margin):
            near = np.array([SPLITS.index(split_of[b]) if b in split_of else -1 for b in blocks])
            splits[(near >= 0) & conflict(near, rank)] = "gap"
    return splits


def _draw_blocks(blocks: list[tuple[int, int]], settings: TilingSettings) -> dict[tuple[int, int], str]:
    order = np.random.default_rng(settings.split_seed).permutation(len(blocks))
    counts = {}
    for name, share in (("validation", settings.validation_share), ("test", settings.test_share)):
        counts[name] = max(round(share * len(blocks)), 1) if share > 0 and len(blocks) > 2 else 0
    names = [n for n in counts for _ in range(counts[n])]
    names += ["train"] * (len(blocks) - len(names))
    return {blocks[i]: name for i, name in zip(order, names, strict=False)}


def _regular_corners(
    grid: Grid, side: int, settings: TilingSettings, extent: tuple[float, float, float, float] | None
) -> npt.NDArray[np.int64]:
    area = grid.window(extent) if extent else Window(0, 0, grid.width, grid.height)
    if side > min(area.width, area.height):
        raise InputError(
            f"The area of {area.width} × {area.height} pixels has no place for a tile of {settings.tile_size_m:g} m.",
            "extent",
            "Choose a larger area, or smaller tiles ('tile_size_m').",
        )
    stride = max(side - round(settings.overlap_m / grid.gsd), 1)
    rows = np.arange(area.row_off, area.row_off + area.height - side + 1, stride)
    cols = np.arange(area.col_off, area.col_off + area.width - side + 1, stride)
    corners: npt.NDArray[np.int64] = np.stack(np.meshgrid(rows, cols, indexing="ij"), axis=-1).reshape(-1, 2)
    return corners


def _corners_at(centres: npt.NDArray[np.float64], grid: Grid, side: int) -> npt.NDArray[np.int64]:
    inverse = ~grid.transform
    cols, rows = inverse * (centres[:, 0], centres[:, 1])
    corners = np.round(np.stack([rows, cols], axis=1) - side / 2).astype(np.int64)
    limits = np.array([grid.height - side, grid.width - side])
    inside = ((corners > -side / 2) & (corners < limits + side / 2)).all(axis=1)
    if not inside.any():
        raise InputError(
            "None of the tagged polygons lies inside the scene.", "footprints", "Check the CRS of both layers."
        )
    corners = np.clip(corners[inside], 0, limits)
    return corners[np.lexsort((corners[:, 1], corners[:, 0]))]


def _valid_share(
    scene: Scene, corners: npt.NDArray[np.int64], side: int, reporter: Reporter
) -> npt.NDArray[np.float64]:
    """Share of valid pixels per tile, by a summed-area table over each row of tiles."""
    shares = np.zeros(len(corners))
    rows = np.unique(corners[:, 0])
    for done, row in enumerate(rows):
        reporter.check()
        members = np.flatnonzero(corners[:, 0] == row)
        cols = corners[members, 1]
        window = Window(int(cols.min()), int(row), int(cols.max() - cols.min()) + side, side)
        valid = scene.read(window)[1].sum(axis=0)
        total = np.concatenate([[0], np.cumsum(valid)])
        starts = cols - cols.min()
        shares[members] = (total[starts + side] - total[starts]) / side**2
        reporter.progress((done + 1) / len(rows))
    return shares


def _footprint(t: Any, row: int, col: int, side: int) -> shapely.Polygon:
    offsets = ((0, 0), (side, 0), (side, side), (0, side))
    return shapely.Polygon([t * (col + dx, row + dy) for dx, dy in offsets])
