"""What becomes of the map when users tag as users do? The refined map under worse and worse tags.

The road, the scene and the held-out blocks are those of `quality.py`; each row changes one thing:

* wrong tags: of the classes that a tile is tagged with, this share is named as another class, which the tile has not;
* reviewed: tags that look wrong to networks that did not learn them are forgotten (`review`);
* untagged: this share of the tiles has no tags;
* threshold: a class is tagged from another share of the tile than the training believes (10 %);
* tile size: larger tiles, that is, coarser tags and fewer of them;
* fewer tiles: only so many training tiles are tagged.

    python benchmarks/sensitivity.py --data ../shared/data/virginia --seeds 0 1 2 --output build/sensitivity.json

`docs/sensitivity.*` are written from such files; rows and seeds may have been run apart:

    python benchmarks/sensitivity.py --publish build/sensitivity.json
"""

from __future__ import annotations

import argparse
import json
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
from common.results import DOCS, SETTING, Scores, mean_and_spread, merged, results_of
from common.trial import GATED, Trial, road_options
from sparsevit.geodata.tile_index import ABSENT, PRESENT, UNKNOWN, TileIndex, read_tile_index

Tags = npt.NDArray[np.int8]
Retag = Callable[[TileIndex, np.random.Generator, Path], TileIndex]
BELIEVED = 0.1
"""Presence threshold that the training believes in."""
PROPER = "as they should be"
PAGE = """# What if the tags are not as they should be?

Written by `benchmarks/sensitivity.py --publish` from `sensitivity.json` beside it; do not edit.

The refined map of the [table of quality](quality.md), on the same blocks and seeds ({seeds}), from worse and worse
tags. Each row changes one thing. *Wrong*: so many of the tags name another class in place of the right one, which the
tile has not; *reviewed*: those that look wrong were forgotten (`sparsevit review`). *Tagged from*: a class is tagged
from another share of the tile than the training believes, which is 10 %;
*threshold learned*: the training starts from 10 % and learns it from the tags.
*Change*: of the mIoU against proper tags, seed by seed; mean ± standard deviation. Held-out tiles have the same kind of
tags as the others, as they would with a user; the map is scored by the reference.

{table}
"""


@dataclass(frozen=True)
class Condition:
    """One row: what is changed.

    Attributes:
        name: Name of the row.
        retag: Changes the tagged index, given its random generator and the reference.
        tiling: Settings of the tiles.
        classifier: Which of `CLASSIFIERS`.
        reviewed: Whether tags that look wrong are forgotten.
    """

    name: str
    retag: Retag | None = None
    tiling: tuple[tuple[str, Any], ...] = ()
    classifier: str = GATED
    reviewed: bool = False


def with_tags(index: TileIndex, tags: Tags) -> TileIndex:
    """The index with other tags of the same classes."""
    assert index.scheme is not None and index.presence_threshold is not None
    return index.with_tags(index.scheme, tags, index.presence_threshold)


def wrong_tags(share: float, index: TileIndex, rng: np.random.Generator, _: Path) -> TileIndex:
    """Name a share of the present classes as another one that is absent."""
    tags = index.tags()
    for tile, named in np.argwhere((tags == PRESENT) & (rng.random(tags.shape) < share)):
        others = np.flatnonzero(tags[tile] == ABSENT)
        if len(others):
            tags[tile, named], tags[tile, rng.choice(others)] = ABSENT, PRESENT
    return with_tags(index, tags)


def untagged(share: float, index: TileIndex, rng: np.random.Generator, _: Path) -> TileIndex:
    """Forget the tags of a share of the tiles."""
    tags = index.tags()
    tags[rng.random(len(tags)) < share] = UNKNOWN
    return with_tags(index, tags)


def fewer_tiles(count: int, index: TileIndex, rng: np.random.Generator, _: Path) -> TileIndex:
    """Forget the tags of all but `count` training tiles; every class keeps a tile."""
    tags, train = index.tags(), np.flatnonzero(index.frame["split"] == "train")
    wanted = (tags[train] == PRESENT).any(axis=0)
    while True:
        kept = rng.choice(train, min(count, len(train)), replace=False)
        if ((tags[kept] == PRESENT).any(axis=0) >= wanted).all():
            tags[np.setdiff1d(train, kept)] = UNKNOWN
            return with_tags(index, tags)


def other_threshold(threshold: float, index: TileIndex, _: np.random.Generator, reference: Path) -> TileIndex:
    """Tag by another threshold than the training believes."""
    with tempfile.TemporaryDirectory(prefix="sparsevit-sensitivity-") as folder:
        path = Path(folder) / "tiles.gpkg"
        index.write(path)
        job("tag", tiles=path, scheme=SCHEME, source="raster", raster=reference, presence_threshold=threshold)
        tagged = read_tile_index(path)
        assert tagged.scheme is not None
        return index.with_tags(tagged.scheme, tagged.tags(), BELIEVED)


CONDITIONS = [
    Condition(PROPER),
    Condition("as they should be, reviewed", reviewed=True),
    *(
        Condition(f"{share:.0%} of the tags wrong{text}", partial(wrong_tags, share), reviewed=bool(text))
        for share in (0.1, 0.2)
        for text in ("", ", reviewed")
    ),
    Condition("half of the tiles untagged", partial(untagged, 0.5)),
    *(Condition(f"tagged from {t:.0%}", partial(other_threshold, t)) for t in (0.02, 0.05, 0.2)),
    Condition("as they should be, threshold learned", classifier="threshold"),
    *(
        Condition(f"tagged from {t:.0%}, threshold learned", partial(other_threshold, t), classifier="threshold")
        for t in (0.02, 0.05, 0.2)
    ),
    *(Condition(f"tiles of {m} m", None, (("tile_size_m", m),)) for m in (1280, 2560)),
    *(Condition(f"{count} training tiles", partial(fewer_tiles, count)) for count in (50, 100)),
]


def run(condition: Condition, options: argparse.Namespace, seed: int) -> Scores:
    """Scores of the refined map under a condition, for one seed."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sparsevit-sensitivity-") as folder:
        rng = np.random.default_rng(seed)
        change, reference = condition.retag, reference_of(options.data)
        retag = (lambda index: change(index, rng, reference)) if change else None
        more = {"retag": retag, "reviewed": condition.reviewed, **dict(condition.tiling)}
        trial = Trial(options.data, Path(folder), seed, options.split_seed, options.epochs, **more)
        scores = trial.scores(trial.refined(classifier=condition.classifier))
    return {"role": "", **scores, "seconds": round(time.monotonic() - begun, 1)}


def publish(parts: list[dict[str, Any]]) -> None:
    """Write the rows into the documentation; proper tags are those of the table of quality, if they were not run."""
    data = merged(parts, DOCS / "sensitivity.json")
    rows = {row["name"]: row for row in data["rows"]}
    if PROPER not in rows:
        table = json.loads((DOCS / "quality.json").read_text(encoding="utf-8"))
        if any(table[name] != data[name] for name in (*SETTING, "seeds")):
            raise SystemExit(f"Run the row '{PROPER}' too: the published table has another setting.")
        rows[PROPER] = next(row for row in table["rows"] if row["name"] == PRODUCT)
    proper = rows[PROPER]["miou"]
    lines = ["| Tags | mIoU | change | OA | AA |", f"|{' --- |' * 5}"]
    for condition in CONDITIONS:
        if row := rows.get(condition.name):
            mean, spread = mean_and_spread([m / p - 1 for m, p in zip(row["miou"], proper, strict=True)])
            change = f"{mean:+.1%} ± {spread:.1%}" if condition.name != PROPER else ""
            miou = f"{row['miou_mean']:.3f} ± {row['miou_sd']:.3f}"
            lines.append(f"| {condition.name} | {miou} | {change} | {row['oa_mean']:.3f} | {row['aa_mean']:.3f} |")
    page = PAGE.format(seeds=len(data["seeds"]), table="\n".join(lines))
    (DOCS / "sensitivity.md").write_text(page, encoding="utf-8")


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
            runs[-1][condition.name] = run(condition, options, seed)
            logging.info("seed %d  %-30s %s", seed, condition.name, runs[-1][condition.name])
            save(results_of(options, [{}] * len(runs), runs), options.output)


if __name__ == "__main__":
    main()
