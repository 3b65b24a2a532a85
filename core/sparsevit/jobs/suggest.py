"""Suggest which tiles to tag next."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field

from sparsevit.errors import InputError
from sparsevit.geodata.tile_index import TileIndex, read_tile_index
from sparsevit.jobs.base import Job, Request, Result, absolute
from sparsevit.models.hardware import HardwareSettings
from sparsevit.models.model_file import ModelCard, load_model
from sparsevit.outputs import check_writable
from sparsevit.reporting import Reporter
from sparsevit.training.loop import make_fabric
from sparsevit.training.suggestion import committee, information
from sparsevit.training.tiles import load_tiles

COLUMNS = ("suggest_rank", "suggest_bits", "suggest_entropy", "suggest_disagreement")


class SuggestRequest(Request):
    """Suggest which untagged tiles to tag next: those whose tags would tell the classifier most."""

    tiles: Path = Field(description="Tile index (.gpkg) of which only some tiles are tagged.")
    classifier: Path = Field(description="Classifier (.safetensors) trained on the tagged ones.")
    scene: list[Path] = Field(default=[], description="Rasters to read instead of those that the tile index names.")
    hardware: HardwareSettings = HardwareSettings()
    output: Path | None = Field(default=None, description="Tile index to write (.gpkg); the input if left out.")


class SuggestResult(Result):
    """How many tiles were ranked, and the first ones (`tile_id`)."""

    output: str
    ranked: int
    first: list[str]
    seconds: float


def run(request: SuggestRequest, reporter: Reporter) -> SuggestResult:
    """Rank the untagged tiles of the training blocks; others could not be learned from."""
    started = time.monotonic()
    output = request.output or request.tiles
    check_writable(output, (".gpkg",))
    index = read_tile_index(request.tiles)
    model, card = load_model(request.classifier, "classifier", "classifier")
    wanted = untagged(index)
    if not wanted.any():
        raise InputError(
            f"Every tile of the training blocks of {request.tiles} is tagged.", "tiles", "Nothing is left to suggest."
        )
    chosen = index.choose(wanted)
    _check_fits(chosen, model.architecture.tile, card, request)
    store = load_tiles(chosen, card.bands, reporter.part(0, 0.3), request.scene)
    fabric = make_fabric(request.hardware)
    told = information(committee(model, store, card.presence_threshold, fabric, reporter.part(0.3, 1)))
    bits = told.total.numpy()
    rank = np.empty(len(bits), np.int64)
    rank[np.argsort(-bits, kind="stable")] = np.arange(1, len(bits) + 1)
    frame = index.frame.drop(columns=[c for c in COLUMNS if c in index.frame.columns])
    for name, values in zip(COLUMNS, (rank, bits, told.entropy.numpy(), told.disagreement.numpy()), strict=True):
        column = np.full(len(frame), np.nan)
        column[wanted] = values
        frame[name] = column
    frame[COLUMNS[0]] = frame[COLUMNS[0]].astype("Int32")
    replace(index, frame=frame).write(output)
    reporter.progress(1.0)
    return SuggestResult(
        output=absolute(output),
        ranked=len(bits),
        first=chosen.frame["tile_id"].astype(str).to_numpy()[np.argsort(rank)][:20].tolist(),
        seconds=round(time.monotonic() - started, 1),
    )


def untagged(index: TileIndex) -> npt.NDArray[np.bool_]:
    """Which tiles of the training blocks have no known tag `[tiles]`."""
    known = index.tagged() if index.scheme else np.zeros(len(index), bool)
    free: npt.NDArray[np.bool_] = ~known & (index.frame["split"] == "train").to_numpy()
    return free


def _check_fits(index: TileIndex, side: int, card: ModelCard, request: SuggestRequest) -> None:
    sides = index.frame[["height", "width"]].to_numpy()
    if (sides != side).any():
        raise InputError(
            f"The tiles of {request.tiles} have {int(sides[0, 0])} pixels a side, {request.classifier} was trained on "
            f"{side}.",
            "tiles",
            "Use the tile index that the classifier was trained on.",
        )
    card.check_gsd(index.gsd, f"The tile index {request.tiles.name}", "tiles")


JOB = Job("suggest", SuggestRequest, run)
