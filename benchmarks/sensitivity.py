"""What becomes of the map when users tag as users do? The refined map under worse and worse tags.

The road, the scene and the held-out blocks are those of `quality.py`; each row changes one thing:

* wrong tags: of the classes that a tile is tagged with, this share is named as another class, which the tile has not;
* doubted: the product forgets tags that look wrong to networks that did not learn them (`review`); nothing is
  reviewed; or the user looks at their tiles and corrects them;
* untagged: this share of the tiles has no tags;
* threshold: a class is tagged from another share of the tile than the training believes (10 %); the training is not
  told any share and learns it from the tags; or it is told the right one, which shows what such tags are worth;
* tile size: larger tiles, that is, coarser tags; they overlap, or too few would fit between the held-out blocks;
* again: nothing but the random numbers, of the training and of which tags are wrong;
* other numbers of tiles: only so many training tiles are tagged; more than fit side by side overlap by half.

    python benchmarks/sensitivity.py --data ../shared/data/virginia --seeds 0 1 2 --output build/sensitivity.json

`docs/sensitivity.*` are written from such files; rows and seeds may have been run apart:

    python benchmarks/sensitivity.py --publish build/sensitivity.json
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.development import ROOT, SCHEME, job, load, log_to_terminal, options_of, reference_of, save
from common.page import PRODUCT
from common.results import DOCS, SETTING, Scores, mean_and_spread, results_of
from common.trial import CORRECT, FORGET, Trial, road_options
from sparsevit.errors import InputError
from sparsevit.geodata.tile_index import ABSENT, PRESENT, UNKNOWN, USUAL_THRESHOLD, TileIndex, read_tile_index

Tags = npt.NDArray[np.int8]
Retag = Callable[[TileIndex, np.random.Generator, Path], TileIndex]
PROPER, WRONG = "as they should be", "20% of the tags wrong"
AGAIN, AGAIN_BY = ", again", 3
"""Ends the names of rows that are trained once more on the same blocks, and what is added to their seed for it: other
random numbers, and other tags are wrong."""
PAGE = """# What if the tags are not as they should be?

Written by `benchmarks/sensitivity.py --publish` from `sensitivity.json` beside it; do not edit.

The refined map of the [table of quality](quality.md), on the same blocks, from worse and worse tags. Each row changes
one thing. *Wrong*: so many of the tags name another class in place of the right one, which the tile has not. Tags that
look wrong are forgotten, as by the product; *not reviewed*: they stay; *doubted ones corrected*: with all other tags of
their tiles, as by a user who looks at these. *Tagged from*: a class is tagged from another share of the tile than the
training believes, which is 10 %; *threshold learned*: the training starts from 10 % and learns it from the tags;
*threshold known*: it is told. *Again*: trained once more on the same blocks, with other random numbers and other wrong
tags, and compared with proper tags again; over both times a fifth of the tags wrong changed the mIoU by {both}.
*Change*: of the mIoU against proper tags, seed by seed; mean ± standard deviation, if of more than one seed. Held-out
tiles have the same kind of tags as the others, as they would with a user; the map is scored by the reference. Proper
tiles are of 640 m, that is, 64 pixels, and do not overlap; there are 170 to 220 of them to learn from. The 500 are
drawn from tiles that overlap by half. Rows were run at different times, some computed with bfloat16, some with 32 bits.
The rows of 10 % wrong tags and of corrected ones are of the first look of the review alone; the product has a second
one.

{table}
"""


@dataclass(frozen=True)
class Condition:
    """One row: what is changed.

    Attributes:
        name: Name of the row.
        retag: Changes the tagged index, given its random generator and the reference.
        tiling: Settings of the tiles.
        review: What becomes of tags that look wrong; see `Trial`.
        again: Whether it is another row, trained once more.
    """

    name: str
    retag: Retag | None = None
    tiling: tuple[tuple[str, Any], ...] = ()
    review: str = FORGET
    again: bool = False


def wrong_tags(share: float, index: TileIndex, rng: np.random.Generator, _: Path) -> TileIndex:
    """Name a share of the present classes as another one that is absent."""
    tags = index.tags()
    for tile, named in np.argwhere((tags == PRESENT) & (rng.random(tags.shape) < share)):
        others = np.flatnonzero(tags[tile] == ABSENT)
        if len(others):
            tags[tile, named], tags[tile, rng.choice(others)] = ABSENT, PRESENT
    return index.retagged(tags)


def untagged(share: float, index: TileIndex, rng: np.random.Generator, _: Path) -> TileIndex:
    """Forget the tags of a share of the tiles."""
    tags = index.tags()
    tags[rng.random(len(tags)) < share] = UNKNOWN
    return index.retagged(tags)


def fewer_tiles(count: int, index: TileIndex, rng: np.random.Generator, _: Path) -> TileIndex:
    """Forget the tags of all but `count` training tiles; every class keeps a tile."""
    tags, train = index.tags(), np.flatnonzero(index.frame["split"] == "train")
    wanted = (tags[train] == PRESENT).any(axis=0)
    while True:
        kept = rng.choice(train, min(count, len(train)), replace=False)
        if ((tags[kept] == PRESENT).any(axis=0) >= wanted).all():
            tags[np.setdiff1d(train, kept)] = UNKNOWN
            return index.retagged(tags)


def other_threshold(
    threshold: float, believed: float | None, index: TileIndex, _: np.random.Generator, reference: Path
) -> TileIndex:
    """Tag by a threshold, and have the training believe in one or learn it."""
    with tempfile.TemporaryDirectory(prefix="sparsevit-sensitivity-") as folder:
        path = Path(folder) / "tiles.gpkg"
        index.write(path)
        job("tag", tiles=path, scheme=SCHEME, source="raster", raster=reference, presence_threshold=threshold)
        tagged = read_tile_index(path)
        assert tagged.scheme is not None
        return index.with_tags(tagged.scheme, tagged.tags(), believed)


CONDITIONS = [
    Condition(PROPER),
    Condition(PROPER + AGAIN, again=True),
    *(
        Condition(f"{share:.0%} of the tags wrong{text}", partial(wrong_tags, share), review=review)
        for share in (0.1, 0.2)
        for text, review in (("", FORGET), (", not reviewed", ""), (", doubted ones corrected", CORRECT))
    ),
    Condition(WRONG + AGAIN, partial(wrong_tags, 0.2), again=True),
    Condition("half of the tiles untagged", partial(untagged, 0.5)),
    Condition("as they should be, threshold learned", partial(other_threshold, USUAL_THRESHOLD, None)),
    *(
        Condition(f"tagged from {t:.0%}{text}", partial(other_threshold, t, believed))
        for t in (0.02, 0.05, 0.2)
        for text, believed in (("", USUAL_THRESHOLD), (", threshold learned", None), (", threshold known", t))
    ),
    *(
        Condition(f"tiles of {m} m, every 640 m", None, (("tile_size_m", m), ("overlap_m", m - 640)))
        for m in (1280, 2560)
    ),
    *(Condition(f"{count} training tiles", partial(fewer_tiles, count)) for count in (50, 100)),
    Condition("500 training tiles, every 320 m", partial(fewer_tiles, 500), (("overlap_m", 320),)),
]


def run(condition: Condition, options: argparse.Namespace, seed: int) -> Scores:
    """Scores of the refined map under a condition, for one seed."""
    begun = time.monotonic()
    split_seed = options.split_seed
    if condition.again:  # the blocks are those of the sum of both
        seed, split_seed = seed + AGAIN_BY, split_seed - AGAIN_BY
    with tempfile.TemporaryDirectory(prefix="sparsevit-sensitivity-") as folder:
        rng = np.random.default_rng(seed)
        change, reference = condition.retag, reference_of(options.data)
        retag = (lambda index: change(index, rng, reference)) if change else None
        tiling = dict(condition.tiling)
        trial = Trial(options.data, Path(folder), seed, split_seed, options.epochs, retag, condition.review, **tiling)
        scores = trial.scores(trial.refined())
    return {"role": "", **scores, "seconds": round(time.monotonic() - begun, 1)}


def publish(parts: list[dict[str, Any]]) -> None:
    """Add rows and seeds to those of the documentation; proper tags are those of the table of quality, if not run."""
    file = DOCS / "sensitivity.json"
    table, *parts = load([DOCS / "quality.json", *([file] if file.exists() else [])]) + parts
    setting = {name: table[name] for name in SETTING}
    if any(part[name] != value for part in parts for name, value in setting.items()):
        raise SystemExit("The results are of other blocks, epochs or threads than each other or the table of quality.")
    product = next(row for row in table["rows"] if row["name"] == PRODUCT)
    proper = dict(zip(table["seeds"], product["miou"], strict=True))
    runs: dict[int, dict[str, Scores]] = {}
    for part in parts:
        for seed, run in zip(part["seeds"], part["runs"], strict=True):
            runs.setdefault(seed, {}).update(run)
    save(setting | {"seeds": sorted(runs), "runs": [runs[seed] for seed in sorted(runs)]}, file)
    proper |= {seed: run[PROPER]["miou"] for seed, run in runs.items() if PROPER in run}
    proper_again = {seed: run[PROPER + AGAIN]["miou"] for seed, run in runs.items() if PROPER + AGAIN in run}
    lines, changes = ["| Tags | seeds | mIoU | with proper tags | change |", f"|{' --- |' * 5}"], {}
    for name in (condition.name for condition in CONDITIONS if condition.name != PROPER):
        found = {seed: runs[seed][name]["miou"] for seed in sorted(runs) if name in runs[seed]}
        beside = proper_again if name == WRONG + AGAIN else proper
        changes[name] = [miou / beside[seed] - 1 for seed, miou in found.items()]
        if found:
            miou = mean_in_words(list(found.values()), ".3f")
            before = mean_in_words([beside[seed] for seed in found], ".3f")
            change = mean_in_words(changes[name], "+.1%")
            lines.append(f"| {name} | {', '.join(map(str, found))} | {miou} | {before} | {change} |")
    both = mean_in_words(changes[WRONG] + changes[WRONG + AGAIN], "+.1%")
    (DOCS / "sensitivity.md").write_text(PAGE.format(table="\n".join(lines), both=both), encoding="utf-8")


def mean_in_words(values: list[float], form: str) -> str:
    """Mean and, of more than one value, standard deviation."""
    mean, spread = mean_and_spread(values)
    return f"{mean:{form}} ± {spread:{form.lstrip('+')}}" if len(values) > 1 else f"{mean:{form}}"


def main() -> None:
    """Run the rows."""
    parser = options_of(__doc__, ROOT / "build/sensitivity.json")
    road_options(parser)
    options = parser.parse_args()
    if options.publish:
        publish(load(options.publish))
        return
    log_to_terminal()
    runs: list[dict[str, Scores]] = []
    for seed in options.seeds:
        runs.append({})
        for condition in CONDITIONS:
            if options.rows and condition.name not in options.rows:
                continue
            try:
                runs[-1][condition.name] = run(condition, options, seed)
            except InputError as refusal:  # of tiles so large that too few are left: the other rows go on
                logging.warning("seed %d  %-30s refused: %s", seed, condition.name, refusal)
                continue
            logging.info("seed %d  %-30s %s", seed, condition.name, runs[-1][condition.name])
            save(results_of(options, [{}] * len(runs), runs), options.output)


if __name__ == "__main__":
    main()
