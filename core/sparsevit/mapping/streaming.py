"""From tiles to a scene: overlapping tiles, smooth blending, streamed rows of stripes of bounded width."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from rasterio.windows import Window
from torch import Tensor

from sparsevit.errors import ResourceError
from sparsevit.geodata.scene import BoolArray, FloatArray, Scene
from sparsevit.reporting import Reporter

Evaluate = Callable[[Tensor, list[Window]], Tensor]
"""From raw tiles `[B, C, side, side]` (NaN for nodata) and their windows to evidence `[B, K, side, side]`."""


Refine = Callable[[FloatArray, FloatArray], FloatArray]
"""From evidence `[K, H, W]` and raw bands `[C, H, W]` to evidence `[K, H, W]`."""

STRIPE_WIDTH = 2048
"""Columns that are finished in one go from top to bottom; a multiple of the block size of the rasters written."""


@dataclass(frozen=True)
class RowBand:
    """Finished rows of a stripe of an area.

    Attributes:
        row: First row, from the top of the area.
        evidence: Blended evidence `[K, rows, width]`.
        values: Raw bands `[C, rows, width]`, NaN for nodata.
        valid: `[rows, width]`.
        col: First column, from the left of the area.
    """

    row: int
    evidence: FloatArray
    values: FloatArray
    valid: BoolArray
    col: int = 0

    @property
    def window(self) -> Window:
        """Where the rows lie in the area."""
        return Window(self.col, self.row, self.valid.shape[1], self.valid.shape[0])

    def rows(self, start: int, stop: int) -> RowBand:
        """Some of the rows."""
        rows = slice(start, stop)
        return RowBand(self.row + start, self.evidence[:, rows], self.values[:, rows], self.valid[rows], self.col)

    def columns(self, start: int, stop: int) -> RowBand:
        """Some of the columns."""
        cols = slice(start, stop)
        evidence, values, valid = self.evidence[..., cols], self.values[..., cols], self.valid[:, cols]
        return RowBand(self.row, evidence, values, valid, self.col + start)


def starts(length: int, side: int, stride: int) -> npt.NDArray[np.int64]:
    """First pixel of each tile along an axis; every pixel is covered, the last tile is shifted inwards."""
    if length <= side:
        return np.zeros(1, np.int64)
    regular = np.arange(0, length - side, stride)
    return np.append(regular, length - side)


def blending_weight(side: int) -> FloatArray:
    """Hann window `[side, side]`, kept above zero so that the rim of the scene has a weight."""
    line = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 + 1e-3
    return np.outer(line, line).astype(np.float32)


class BatchRunner:
    """Evaluates tiles in batches; halves the batch when the device runs out of memory."""

    def __init__(self, evaluate: Evaluate, batch: int, reporter: Reporter) -> None:
        self.evaluate, self.batch, self.reporter = evaluate, batch, reporter

    def __call__(self, windows: list[Window], fetch: Callable[[slice], Tensor]) -> Iterator[Tensor]:
        """Evidence of tiles, batch by batch, in order; `fetch` copies the raw tiles of a batch.

        Raises:
            ResourceError: Not even one tile fits.
        """
        done = 0
        while done < len(windows):
            self.reporter.check()
            batch = slice(done, done + self.batch)
            try:
                out = self.evaluate(fetch(batch), windows[batch])
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as err:
                if not _is_out_of_memory(err):
                    raise
                if self.batch == 1:
                    raise ResourceError(
                        "Not enough memory for a single tile.", "device", "Use another device or a smaller model."
                    ) from err
                self.batch = max(self.batch // 2, 1)
                self.reporter.log(f"Out of memory: going on with {self.batch} tiles per forward pass.", "warning")
                continue
            done += len(out)
            yield out


def _is_out_of_memory(err: BaseException) -> bool:
    text = str(err)
    known = isinstance(err, torch.OutOfMemoryError | MemoryError)
    return known or "out of memory" in text or "can't allocate memory" in text


def stream(
    scene: Scene, area: Window, side: int, overlap: float, classes: int, runner: BatchRunner, reporter: Reporter
) -> Iterator[RowBand]:
    """Evaluate overlapping tiles of an area and yield its rows from top to bottom, over its whole width.

    At any time one row of tiles is in memory: `side × width × (bands + classes)` numbers. Tiles without a valid
    pixel are not evaluated. Tiles of areas smaller than `side` are padded by nodata.

    Args:
        scene: The scene.
        area: Window of whole pixels to evaluate.
        side: Side of a tile (pixels).
        overlap: Overlap of neighbouring tiles (share of a tile).
        classes: K, number of evidence channels.
        runner: Evaluates the tiles.
        reporter: Progress by rows.
    """
    height, width = int(area.height), int(area.width)
    stride = max(round(side * (1 - overlap)), 1)
    rows, cols = starts(height, side, stride), starts(width, side, stride)
    padded_width = max(width, side)
    weight = blending_weight(side)
    total = np.zeros((classes, side, padded_width), np.float32)
    norm = np.zeros((side, padded_width), np.float32)
    strip = np.full((len(scene.bands), side, padded_width), np.nan, np.float32)
    strip_valid = np.zeros((side, padded_width), bool)
    loaded = 0  # rows of the area read so far
    for k, row in enumerate(rows):
        fresh = min(row + side, height) - loaded
        read, valid = scene.read(Window(area.col_off, area.row_off + loaded, width, fresh))
        at = loaded - row
        strip[:, at : at + fresh, :width], strip_valid[at : at + fresh, :width] = read, valid
        loaded += fresh
        used = np.array([c for c in cols if strip_valid[:, c : c + side].any()], np.int64)
        done = 0
        windows = [Window(int(area.col_off + c), int(area.row_off + row), side, side) for c in used]
        for evidence in runner(windows, _fetcher(strip, used)):
            blended = evidence.float().cpu().numpy() * weight
            for values, col in zip(blended, used[done : done + len(blended)], strict=True):
                total[:, :, col : col + side] += values
                norm[:, col : col + side] += weight
            done += len(blended)
        finished = int(rows[k + 1] - row) if k + 1 < len(rows) else min(side, height - int(row))
        covered = np.maximum(norm[:finished, :width], 1e-12).astype(np.float32)
        evidence_rows = total[:, :finished, :width] / covered
        yield RowBand(
            int(row), evidence_rows, strip[:, :finished, :width].copy(), strip_valid[:finished, :width].copy()
        )
        for buffer, empty in ((total, 0), (norm, 0), (strip, np.nan), (strip_valid, False)):
            buffer[..., :-finished, :] = buffer[..., finished:, :].copy()
            buffer[..., -finished:, :] = empty
        reporter.progress((row + finished) / height)


def _fetcher(strip: FloatArray, cols: npt.NDArray[np.int64]) -> Callable[[slice], Tensor]:
    """Copies the tiles of a batch out of a strip `[C, side, width]`."""
    view = np.lib.stride_tricks.sliding_window_view(strip, strip.shape[1], axis=2)  # (C, side, positions, side)
    return lambda batch: torch.from_numpy(np.ascontiguousarray(view[:, :, cols[batch]].transpose(2, 0, 1, 3)))


def sharpened(bands: Iterator[RowBand], refine: Refine, halo: int) -> Iterator[RowBand]:
    """Refine rows with `halo` rows of context above and below, so that no seam shows between bands of rows.

    Args:
        bands: Finished rows from top to bottom.
        refine: Looks at most `halo` far.
        halo: Rows of context.
    """
    above: list[RowBand] = []  # at most `halo` rows
    waiting: list[RowBand] = []  # the band to refine next, and those below it: one band may be lower than the halo
    for band in itertools.chain(bands, [None]):
        waiting += [band] if band else []
        while waiting and (band is None or _height(waiting[1:]) >= halo):
            current = waiting.pop(0)
            down_to = _joined([*above, current])
            context = _joined([down_to, *_first_rows(waiting, halo)])
            top, stop = _height(above), _height([down_to])
            refined = refine(context.evidence, context.values)[:, top:stop]
            yield RowBand(current.row, refined, current.values, current.valid)
            above = [down_to.rows(max(stop - halo, 0), stop)]


def _height(bands: list[RowBand]) -> int:
    return sum(len(band.valid) for band in bands)


def _first_rows(bands: list[RowBand], count: int) -> Iterator[RowBand]:
    for band in bands:
        if count > 0:
            yield band.rows(0, count)
        count -= len(band.valid)


def _joined(bands: list[RowBand]) -> RowBand:
    evidence, values = (np.concatenate(p, axis=1) for p in ([b.evidence for b in bands], [b.values for b in bands]))
    return RowBand(bands[0].row, evidence, values, np.concatenate([b.valid for b in bands]))


def sweep(
    scene: Scene,
    area: Window,
    side: int,
    overlap: float,
    classes: int,
    runner: BatchRunner,
    reporter: Reporter,
    refine: Refine = lambda evidence, _: evidence,
    halo: int = 0,
) -> Iterator[RowBand]:
    """Evaluate an area stripe by stripe, each from top to bottom, so that memory follows neither height nor width.

    Every pixel comes out as if the area were one stripe: a stripe is evaluated with a margin in which lie all tiles
    that touch it, at the places where they would lie without stripes.

    Args:
        scene: The scene.
        area: Window of whole pixels to evaluate.
        side: Side of a tile (pixels).
        overlap: Overlap of neighbouring tiles (share of a tile).
        classes: K, number of evidence channels.
        runner: Evaluates the tiles.
        reporter: Progress.
        refine: See `sharpened`.
        halo: How far `refine` looks (pixels).
    """
    width = int(area.width)
    stride, margin = max(round(side * (1 - overlap)), 1), side + halo
    first = range(0, width, STRIPE_WIDTH)
    for k, start in enumerate(first):
        stop = min(start + STRIPE_WIDTH, width)
        left, right = max(start - margin, 0) // stride * stride, min(stop + margin, width)
        part = Window(area.col_off + left, area.row_off, right - left, area.height)
        rows = stream(scene, part, side, overlap, classes, runner, reporter.part(k / len(first), (k + 1) / len(first)))
        for band in sharpened(rows, refine, halo) if halo else rows:
            inner = band.columns(start - left, stop - left)
            yield replace(inner, col=start)
