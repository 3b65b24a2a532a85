"""The tile index: footprints, source windows, splits and image-level labels, as an ordinary polygon layer."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError
from rasterio.windows import Window

from sparsevit.errors import InputError, ResourceError
from sparsevit.geodata.layers import TILES as LAYER
from sparsevit.geodata.legend import ClassScheme, parse_scheme
from sparsevit.geodata.scene import Grid
from sparsevit.outputs import whole_file

METADATA_KEY = "SPARSEVIT"
SPLITS = ("train", "validation", "test", "gap")
ABSENT, PRESENT, UNKNOWN = 0, 1, -1
WINDOW_FIELDS = ["tile_id", "row", "col", "height", "width"]
WRONG_FIELD, DOUBTS_FIELD = "review_wrong", "review_doubts"
"""What a review says of each tile: how probably its most doubtful tag is wrong, and which tags it doubts."""
USUAL_THRESHOLD = 0.1
"""Presence threshold where none is told (Schmitt & Wu 2021)."""
PLACE_TOLERANCE = 1.0
"""How far a tile may lie from its source window (pixels), after a change of the layer's CRS."""


@dataclass(frozen=True)
class TileIndex:
    """Tiles of a scene, or of a folder of patches.

    Attributes:
        frame: One polygon per tile with `tile_id`, `row`, `col`, `height`, `width` (source window in pixels),
            `valid` (share of valid pixels), `split`; `files` (JSON list) for patches; `has_…` per class once tagged
            (1 present, 0 absent, null unknown).
        scene: Rasters of the scene; empty for patches.
        band_names: Names of all bands in order.
        tile_size_m: Side of a tile (m).
        scheme: Classes of the tags; none before tagging.
        presence_threshold: Share of a tile from which a class counts as present; none before tagging, and where
            nobody knows, as of tags that people named.
    """

    frame: geopandas.GeoDataFrame
    scene: list[Path]
    band_names: list[str]
    tile_size_m: float
    scheme: ClassScheme | None = None
    presence_threshold: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def gsd(self) -> float:
        """Ground sampling distance of the tiles (m), which are all of one size."""
        return self.tile_size_m / int(self.frame["width"].iloc[0])

    def windows(self) -> list[Window]:
        """Source window of each tile."""
        columns = (self.frame[c].astype(int) for c in ("col", "row", "width", "height"))
        return [Window(*w) for w in zip(*columns, strict=True)]

    def tags(self) -> npt.NDArray[np.int8]:
        """Image-level labels `[tiles, classes]`: 1 present, 0 absent, -1 unknown.

        Raises:
            InputError: The index was never tagged, or fields of tags were deleted since.
        """
        if self.scheme is None:
            raise InputError("The tile index has no tags.", "tiles", "Run 'tag' on it first.")
        fields = [c.field for c in self.scheme.classes]
        _check_fields(self.frame, fields, "Tag the tiles again with 'tag', or restore a copy of the file.")
        columns = [self.frame[f].astype("Float64").fillna(UNKNOWN).to_numpy(float) for f in fields]
        return np.stack(columns, axis=1).astype(np.int8)

    def with_tags(self, scheme: ClassScheme, tags: npt.NDArray[np.int8], presence_threshold: float | None) -> TileIndex:
        """The same tiles with new tags; older ones are dropped."""
        frame = self.frame.drop(columns=[c for c in self.frame.columns if c.startswith("has_")])
        for j, c in enumerate(scheme.classes):
            values = tags[:, j].astype(float)
            frame[c.field] = np.where(values == UNKNOWN, np.nan, values)
            frame[c.field] = frame[c.field].astype("Int32")
        return replace(self, frame=frame, scheme=scheme, presence_threshold=presence_threshold)

    def with_classes(self, scheme: ClassScheme) -> TileIndex:
        """The same tiles with the tags of these classes only, in their order.

        Raises:
            InputError: The index was never tagged, or not by all of these classes.
        """
        if self.scheme is None:
            raise InputError("The tile index has no tags.", "tiles", "Run 'tag' on it first.")
        own = dict(zip(self.scheme.codes, self.scheme.classes, strict=True))
        unknown = [c.name for c in scheme.classes if c.code not in own]
        if unknown:
            raise InputError(
                f"The tags of the tile index do not know the class {', '.join(unknown)} of the model.",
                "tiles",
                "Give the tile index that the model was trained on.",
            )
        return replace(self, scheme=ClassScheme(self.scheme.name, tuple(own[code] for code in scheme.codes)))

    def retagged(self, tags: npt.NDArray[np.int8]) -> TileIndex:
        """The same tiles with other tags of the same classes, by the same presence threshold."""
        assert self.scheme is not None
        return self.with_tags(self.scheme, tags, self.presence_threshold)

    def tagged(self) -> npt.NDArray[np.bool_]:
        """Which tiles have at least one known tag `[tiles]`."""
        known: npt.NDArray[np.bool_] = (self.tags() != UNKNOWN).any(axis=1)
        return known

    def unreviewed(self) -> TileIndex:
        """The same tiles without what a review said of them."""
        return replace(self, frame=self.frame.drop(columns=[WRONG_FIELD, DOUBTS_FIELD], errors="ignore"))

    def choose(self, keep: npt.NDArray[np.bool_]) -> TileIndex:
        """Only the tiles of a mask."""
        return replace(self, frame=self.frame[keep].reset_index(drop=True))

    def in_split(self, split: str) -> TileIndex:
        """Only the tiles of a split."""
        return self.choose((self.frame["split"] == split).to_numpy())

    def write(self, path: Path) -> None:
        """Write the index into a GeoPackage, whole or not at all; other layers of a former file stay.

        Raises:
            ResourceError: It cannot be written (disk full, permission).
        """
        path = path.expanduser().resolve()
        card = {
            "scene": [_relative(p, path.parent) for p in self.scene],
            "band_names": self.band_names,
            "tile_size_m": self.tile_size_m,
            "scheme": self.scheme.to_json() if self.scheme else None,
            "presence_threshold": self.presence_threshold,
            **self.extra,
        }
        try:
            with whole_file(path) as partial:
                _copy_database(path, partial)
                pyogrio.write_dataframe(
                    self.frame, partial, layer=LAYER, driver="GPKG", layer_metadata={METADATA_KEY: json.dumps(card)}
                )
        except (DataSourceError, DataLayerError, FeatureError, sqlite3.OperationalError) as err:
            raise ResourceError(
                f"{path} cannot be written ({err}).", None, "Check free disk space and permissions."
            ) from err


def _copy_database(path: Path, copy: Path) -> None:
    """Copy a GeoPackage, with what its journal holds, so that other layers and the styles of users stay."""
    if not path.is_file():
        return
    with contextlib.closing(sqlite3.connect(path)) as database:
        try:
            database.execute("VACUUM INTO ?", (str(copy),))
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:  # the file to replace is none
            copy.unlink(missing_ok=True)


def read_tile_index(path: Path) -> TileIndex:
    """Read a tile index.

    Raises:
        InputError: The file is missing, is no GeoPackage, was not written by `tiles`, or lacks fields of its tiles.
    """
    if not path.is_file():
        raise InputError(f"The tile index {path} does not exist.", "tiles", "Run 'tiles' first.")
    wrong = InputError(f"{path} is not a tile index.", "tiles", "Make one with 'tiles'.")
    try:
        card = (pyogrio.read_info(path, layer=LAYER).get("layer_metadata") or {}).get(METADATA_KEY)
        frame = geopandas.read_file(path, layer=LAYER, engine="pyogrio")
    except (DataSourceError, DataLayerError) as err:
        raise wrong from err
    if card is None:
        raise wrong
    _check_fields(frame, [*WINDOW_FIELDS, "split"], "Cut the tiles anew with 'tiles'.")
    added = frame[WINDOW_FIELDS].isna().any(axis=1)
    if added.any():
        raise InputError(
            f"{path} has {int(added.sum())} feature(s) that are no tiles: they lack a source window.",
            "tiles",
            "Delete what was drawn by hand; to tag places of your own, give them to 'tiles' as footprints.",
        )
    data = json.loads(card)
    folder = path.expanduser().resolve().parent
    scheme = data.pop("scheme")
    return TileIndex(
        frame,
        [(folder / p).resolve() for p in data.pop("scene")],
        data.pop("band_names"),
        data.pop("tile_size_m"),
        parse_scheme(scheme, str(path)) if scheme else None,
        data.pop("presence_threshold"),
        data,
    )


def _check_fields(frame: geopandas.GeoDataFrame, fields: list[str], hint: str) -> None:
    """Refuse tiles without some of their fields, which anybody may delete from an attribute table."""
    if missing := [name for name in fields if name not in frame]:
        raise InputError(f"The tile index lacks the field(s) {', '.join(missing)}.", "tiles", hint)


def check_replaced(index: TileIndex, rasters: list[Path]) -> None:
    """Refuse rasters in place of those of patches: each patch would be read from their corner.

    Raises:
        InputError: Rasters are given, and the index holds patches.
    """
    if rasters and not index.scene:
        raise InputError("The tile index holds patches with rasters of their own.", "scene", "Leave the scene out.")


def check_place(index: TileIndex, grid: Grid, scene: Path) -> None:
    """Refuse an index of another scene: its tiles would be read, or painted, in the wrong place.

    Args:
        index: Tiles of a scene; patches name their own files and pass.
        grid: Grid of the scene that is about to be read.
        scene: Its first raster, for an error.

    Raises:
        InputError: Tiles lie elsewhere than their source windows, or beyond the raster.
    """
    if not index.scene:
        return
    row, col, height, width = (index.frame[c].to_numpy(float) for c in ("row", "col", "height", "width"))
    x, y = grid.transform * (col + width / 2, row + height / 2)
    centres = index.frame.geometry.to_crs(grid.crs.to_wkt()).centroid
    apart = np.hypot(centres.x.to_numpy() - x, centres.y.to_numpy() - y)
    beyond = (col + width > grid.width) | (row + height > grid.height)
    wrong = ~(apart <= PLACE_TOLERANCE * grid.gsd / grid.crs.linear_units_factor[1]) | beyond
    if wrong.any():
        tile = index.frame["tile_id"].iloc[int(wrong.argmax())]
        raise InputError(
            f"The tile index was not cut from {scene}: tile {tile} lies elsewhere on its grid.",
            "tiles",
            "Give the rasters that it was cut from, or cut this scene with 'tiles'.",
        )


def _relative(path: Path, folder: Path) -> str:
    """Relative to the index where that stays meaningful when the folder is moved, else absolute."""
    path = path.resolve()
    return os.path.relpath(path, folder) if path.is_relative_to(folder) else str(path)


def groups(index: TileIndex) -> Iterator[tuple[list[Path], npt.NDArray[np.intp]]]:
    """Yield the rasters of each source and the positions of its tiles: one group for a scene, one per patch."""
    if index.scene:
        yield index.scene, np.arange(len(index))
        return
    for i, files in enumerate(index.frame["files"]):
        yield [Path(p) for p in json.loads(files)], np.array([i])
