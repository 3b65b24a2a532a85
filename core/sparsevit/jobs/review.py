"""Review tags: find those that look wrong, and forget them if wanted."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from sparsevit.errors import InputError
from sparsevit.geodata.legend import ClassScheme
from sparsevit.geodata.tile_index import DOUBTS_FIELD, PRESENT, UNKNOWN, WRONG_FIELD, TileIndex, read_tile_index
from sparsevit.jobs.base import Job, Request, Result, absolute
from sparsevit.labels.fields import TagArray
from sparsevit.models.hardware import HardwareSettings
from sparsevit.outputs import check_writable
from sparsevit.reporting import Reporter
from sparsevit.training.loop import TrainingSettings, make_fabric
from sparsevit.training.mistakes import DOUBTFUL, to_forget
from sparsevit.training.phases import ClassifierSettings
from sparsevit.training.review import FOLDS, find_mistakes, judge_tags, surer
from sparsevit.training.tagged import load_training_data
from sparsevit.training.tiles import TaggedTiles

SPLITS = ("train", "validation")
FIRST = 20
"""Tiles that the result names."""


class ReviewRequest(Request):
    """Review tags: each is judged by networks that learned other tiles; those that look wrong can be forgotten.

    Where tags look wrong, networks that learned better ones look a second time, which takes as long again.
    """

    tiles: Path = Field(description="Tagged tile index (.gpkg).")
    scene: list[Path] = Field(default=[], description="Rasters to read instead of those that the tile index names.")
    forget: bool = Field(
        default=False,
        description="Make tags unknown that are probably wrong, so that nothing is learned from them, unless a class "
        "would lose all its training tiles; else only show them.",
    )
    review_epochs: int = Field(default=120, ge=1, description="Epochs of each network.")
    seed: int = Field(default=0, ge=0, description="Seed of everything random.")
    hardware: HardwareSettings = HardwareSettings()
    output: Path | None = Field(default=None, description="Tile index to write (.gpkg); the input if left out.")


class ReviewResult(Result):
    """How many tags were judged and doubted, in how many tiles, and the most doubtful tiles (`tile_id`)."""

    output: str
    judged: int
    doubted: int
    doubted_tiles: int
    forgotten: int
    first: list[str]
    seconds: float


def run(request: ReviewRequest, reporter: Reporter) -> ReviewResult:
    """Judge the tags of the training and validation blocks."""
    started = time.monotonic()
    output = request.output or request.tiles
    check_writable(output, (".gpkg",))
    index = read_tile_index(request.tiles)
    data = load_training_data(index, request.scene, [], [], reporter.part(0, 0.05))
    train, held_out = data.train, data.validation
    if len(train) < FOLDS:
        raise InputError(
            f"{request.tiles} has {len(train)} tagged training tile(s): too few to judge one by the others.",
            "tiles",
            "Tag some dozen tiles; a map can be made without a review, too.",
        )
    settings = ClassifierSettings(spectral_epochs=request.review_epochs)
    training, fabric = TrainingSettings(seed=request.seed), make_fabric(request.hardware)

    def judge(learned: TaggedTiles, part: Reporter) -> torch.Tensor:
        seen = judge_tags(learned, held_out, data.side, settings, training, fabric, part)
        return surer(torch.cat(seen))

    probabilities, mistakes = find_mistakes(train, held_out, judge, reporter.part(0.05, 0.98))
    wrong = np.full((len(index), len(data.scheme.classes)), np.nan)
    reviewed = np.concatenate([np.flatnonzero(index.tagged() & (index.frame["split"] == split)) for split in SPLITS])
    wrong[reviewed] = probabilities.numpy().round(3)
    doubted = wrong >= DOUBTFUL
    highest = wrong.max(axis=1)
    frame = index.frame.assign(**{WRONG_FIELD: highest, DOUBTS_FIELD: in_words(index.tags(), doubted, data.scheme)})
    index, forgotten = replace(index, frame=frame), 0
    known, count = int((index.tags()[reviewed] != UNKNOWN).sum()), int(doubted.sum())
    tiles = int(doubted.any(axis=1).sum())
    if request.forget:
        index, forgotten = forget(index, wrong, data.scheme, reporter)
    index.write(output)
    reporter.log(
        f"{count} of {known} tags look wrong ({count / known:.1%}), in {tiles} of {len(reviewed)} tiles; "
        f"{forgotten} were forgotten. As networks see it that learned other tiles, {mistakes.in_words()}."
    )
    reporter.progress(1.0)
    first = [i for i in np.argsort(-np.nan_to_num(highest), kind="stable")[:FIRST] if doubted[i].any()]
    return ReviewResult(
        output=absolute(output),
        judged=known,
        doubted=count,
        doubted_tiles=tiles,
        forgotten=forgotten,
        first=frame["tile_id"].astype(str).iloc[first].tolist(),
        seconds=round(time.monotonic() - started, 1),
    )


def in_words(tags: TagArray, doubted: npt.NDArray[np.bool_], scheme: ClassScheme) -> list[str | None]:
    """The doubted tags `[tiles, classes]` of each tile as a text; none where none is doubted."""
    return [
        ", ".join(f"{scheme.names[k]} {'present' if row[k] == PRESENT else 'absent'}" for k in np.flatnonzero(doubts))
        or None
        for row, doubts in zip(tags, doubted, strict=True)
    ]


def forget(
    index: TileIndex, wrong: npt.NDArray[np.float64], scheme: ClassScheme, reporter: Reporter
) -> tuple[TileIndex, int]:
    """The index with doubted tags unknown, and their number; every class keeps training tiles, see `to_forget`.

    Args:
        index: A tagged index.
        wrong: How probably each of its tags is wrong `[tiles, classes]`, NaN where that was not judged.
        scheme: The classes.
        reporter: Told of classes whose tags are all doubted.
    """
    tags, learned = index.tags(), (index.frame["split"] == "train").to_numpy()
    doubted = wrong >= DOUBTFUL
    gone = to_forget(torch.from_numpy(tags[learned]), torch.from_numpy(wrong[learned])).numpy()
    kept = (doubted[learned] & ~gone).any(axis=0)
    for name in np.array(scheme.names)[kept]:
        reporter.log(
            f"All training tiles with {name} look wrong; none is forgotten. Check them, or leave the class out of the "
            "training.",
            "warning",
        )
    forgotten = doubted & ~((tags == PRESENT) & kept)
    tags[forgotten] = UNKNOWN
    return index.retagged(tags), int(forgotten.sum())


JOB = Job("review", ReviewRequest, run)
