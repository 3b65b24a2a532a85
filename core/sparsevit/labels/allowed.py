"""Which classes the tags allow at a pixel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from rasterio.windows import Window

from sparsevit.errors import InputError
from sparsevit.geodata.legend import ClassScheme
from sparsevit.geodata.tile_index import ABSENT, TileIndex

BoolArray = npt.NDArray[np.bool_]


def allowed_classes(index: TileIndex | None, scheme: ClassScheme) -> Callable[[Window], BoolArray]:
    """A function that tells which classes of `scheme` may occur in a window of the scene, `[K, height, width]`.

    A class is excluded where a tile tags it absent; overlapping tiles allow what any of them allows. Where no tile is
    tagged everything is allowed.

    Raises:
        InputError: The index is tagged by other classes.
    """
    if index is None or index.scheme is None:
        return lambda window: np.ones((len(scheme.codes), int(window.height), int(window.width)), bool)
    unknown = [c.name for c in scheme.classes if c.code not in index.scheme.codes]
    if unknown:
        raise InputError(
            f"The tags of the tile index do not know the class {', '.join(unknown)} of the model.",
            "tiles",
            "Give the tile index that the model was trained on, or none.",
        )
    columns = [index.scheme.codes.index(code) for code in scheme.codes]
    tags = index.tags()[:, columns]
    tagged: BoolArray = np.asarray((tags >= 0).any(axis=1))
    possible = tags[tagged] != ABSENT
    windows = [w for w, keep in zip(index.windows(), tagged, strict=True) if keep]
    corners = [(w.row_off, w.col_off, w.row_off + w.height, w.col_off + w.width) for w in windows]
    boxes = np.array(corners, int).reshape(-1, 4)  # there may be none

    def allowed(window: Window) -> BoolArray:
        top, left = int(window.row_off), int(window.col_off)
        bottom, right = top + int(window.height), left + int(window.width)
        result = np.zeros((len(scheme.codes), bottom - top, right - left), bool)
        touched = (boxes[:, 0] < bottom) & (boxes[:, 2] > top) & (boxes[:, 1] < right) & (boxes[:, 3] > left)
        for k in np.flatnonzero(touched):
            y0, x0, y1, x1 = boxes[k]
            rows, cols = slice(max(y0 - top, 0), y1 - top), slice(max(x0 - left, 0), x1 - left)
            result[:, rows, cols] |= possible[k][:, None, None]
        return result | ~result.any(axis=0)

    return allowed
