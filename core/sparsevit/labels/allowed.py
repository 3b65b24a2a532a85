"""What the tags say about a place: which classes they allow at a pixel, and which they know in a window."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from rasterio.windows import Window

from sparsevit.geodata.legend import ClassScheme
from sparsevit.geodata.tile_index import ABSENT, PRESENT, UNKNOWN, TileIndex

BoolArray = npt.NDArray[np.bool_]


class AllowedClasses:
    """Tells which classes of a scheme may occur where.

    A class is excluded where a tile tags it absent; overlapping tiles allow what any of them allows. Where no tile is
    tagged everything is allowed, and also where all classes are excluded: each may cover less than the presence
    threshold.

    Args:
        index: Tile index; None, or one without tags, allows everything.
        scheme: The K classes.

    Raises:
        InputError: The index is tagged by other classes.
    """

    def __init__(self, index: TileIndex | None, scheme: ClassScheme) -> None:
        self._tags = np.zeros((0, len(scheme.codes)), np.int8)
        self._boxes = np.zeros((0, 4), int)
        if index is not None and index.scheme is not None:
            tags = index.with_classes(scheme).tags()
            tagged = (tags != UNKNOWN).any(axis=1)
            windows = [w for w, keep in zip(index.windows(), tagged, strict=True) if keep]
            corners = [(w.row_off, w.col_off, w.row_off + w.height, w.col_off + w.width) for w in windows]
            self._tags, self._boxes = tags[tagged], np.array(corners, int).reshape(-1, 4)

    def __call__(self, window: Window) -> BoolArray:
        """Which classes may occur at each pixel of a window of the scene `[K, height, width]`."""
        result = self._by_tiles(window)
        return result | ~result.any(axis=0)

    def known(self, window: Window) -> npt.NDArray[np.int8]:
        """What the tags know of a window `[K]`: 1 present, 0 absent, -1 unknown; nothing where a part has no tags."""
        allowed = self._by_tiles(window)
        possible: BoolArray = np.asarray(allowed.any(axis=(1, 2)))
        if not allowed.any(axis=0).all():
            return np.full(len(possible), UNKNOWN, np.int8)
        present = (self._tags[self._touched(window)] == PRESENT).any(axis=0)
        return np.where(possible, np.where(present, PRESENT, UNKNOWN), ABSENT).astype(np.int8)

    def _by_tiles(self, window: Window) -> BoolArray:
        """What tagged tiles allow at each pixel `[K, height, width]`; nothing where there are none."""
        top, left = int(window.row_off), int(window.col_off)
        result = np.zeros((self._tags.shape[1], int(window.height), int(window.width)), bool)
        for k in self._touched(window):
            y0, x0, y1, x1 = self._boxes[k]
            rows, cols = slice(max(y0 - top, 0), y1 - top), slice(max(x0 - left, 0), x1 - left)
            result[:, rows, cols] |= (self._tags[k] != ABSENT)[:, None, None]
        return result

    def _touched(self, window: Window) -> npt.NDArray[np.intp]:
        top, left = int(window.row_off), int(window.col_off)
        y0, x0, y1, x1 = self._boxes.T
        overlaps = (y0 < top + int(window.height)) & (y1 > top) & (x0 < left + int(window.width)) & (x1 > left)
        return np.flatnonzero(overlaps)
