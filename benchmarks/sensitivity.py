"""What becomes of the map when users tag as users do? The refined map under worse and worse tags.

The road, the scene and the held-out blocks are those of `quality.py`; each row changes one thing:

* wrong tags: of the classes that a tile is tagged with, this share is named as another class, which the tile has not;
* untagged: this share of the tiles has no tags;
* threshold: a class is tagged from another share of the tile than the training believes (10 %);
* tile size: larger tiles, that is, coarser tags and fewer of them;
* fewer tiles: only so many training tiles are tagged.

    python benchmarks/sensitivity.py --data ../shared/data/virginia --seeds 0 1 2 --output build/sensitivity.json
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.development import ROOT, SCHEME, job, log_to_terminal, options_of, reference_of, save
from common.trial import Trial, road_options
from sparsevit.geodata.tile_index import ABSENT, PRESENT, UNKNOWN, TileIndex, read_tile_index

Tags = npt.NDArray[np.int8]
Retag = Callable[[TileIndex, np.random.Generator, Path], TileIndex]
BELIEVED = 0.1
"""Presence threshold that the training believes in."""


@dataclass(frozen=True)
class Condition:
    """One row: what is changed.

    Attributes:
        name: Name of the row.
        retag: Changes the tagged index, given its random generator and the reference.
        tiling: Settings of the tiles.
    """

    name: str
    retag: Retag | None = None
    tiling: tuple[tuple[str, Any], ...] = ()


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
    Condition("as it should be"),
    *(Condition(f"{share:.0%} of the tags wrong", partial(wrong_tags, share)) for share in (0.1, 0.2)),
    Condition("half of the tiles untagged", partial(untagged, 0.5)),
    *(Condition(f"tagged from {t:.0%}", partial(other_threshold, t)) for t in (0.02, 0.05, 0.2)),
    *(Condition(f"tiles of {m} m", None, (("tile_size_m", m),)) for m in (1280, 2560)),
    *(Condition(f"{count} training tiles", partial(fewer_tiles, count)) for count in (50, 100)),
]


def run(condition: Condition, data: Path, seed: int, split_seed: int, epochs: float) -> dict[str, float]:
    """Scores of the refined map under a condition, for one seed."""
    with tempfile.TemporaryDirectory(prefix="sparsevit-sensitivity-") as folder:
        rng = np.random.default_rng(seed)
        change, reference = condition.retag, reference_of(data)
        retag = (lambda index: change(index, rng, reference)) if change else None
        trial = Trial(data, Path(folder), seed, split_seed, epochs, retag, **dict(condition.tiling))
        return trial.scores(trial.refined()) | {"training_tiles": len(trial.data.train)}


def main() -> None:
    """Run the rows."""
    parser = options_of(__doc__, ROOT / "build/sensitivity.json")
    road_options(parser)
    options = parser.parse_args()
    log_to_terminal()
    results: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        for condition in CONDITIONS:
            if options.rows and condition.name not in options.rows:
                continue
            scores = run(condition, options.data, seed, options.split_seed, options.epochs)
            results.setdefault(condition.name, []).append(scores)
            logging.info("seed %d  %-30s %s", seed, condition.name, scores)
            save(results, options.output)
    baseline = np.mean([run["miou"] for run in results.get(CONDITIONS[0].name, [])] or [np.nan])
    for name, runs in results.items():
        miou = np.array([run["miou"] for run in runs])
        spread = miou.std(ddof=1) if len(miou) > 1 else 0.0
        print(f"{name:30s} mIoU {miou.mean():.3f} ± {spread:.3f}  {miou.mean() / baseline - 1:+.1%}")


if __name__ == "__main__":
    main()
