"""Does tagging the suggested tiles teach more than tagging others? A simulation on the development scene `virginia`.

A user tags a few tiles of the north, trains, tags as many again, and so on: either those that `suggest` ranks first, or
others at random. The classifier of each round is scored on the tags of held-out blocks.

    python benchmarks/suggestion.py --data ../shared/data/virginia --seeds 0 1 2 --output build/suggestion.json

`docs/suggestion.*` are written from such files; seeds may have been run apart:

    python benchmarks/suggestion.py --publish build/suggestion.json
"""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from common.development import ROOT, job, load, log_to_terminal, options_of, save, tagged_tiles
from common.results import DOCS, mean_and_spread
from sparsevit.geodata.tile_index import UNKNOWN, TileIndex, read_tile_index

TILES_PER_ROUND = 24
ROUNDS = 4
HELD_OUT: dict[str, Any] = {"validation_share": 0.4, "split_seed": 2}
TRAINING = {"heads_kept": 1.0, "controls": False, "epochs": 60, "spectral_epochs": 1}
"""The transformer alone is asked and scored: no pruning, and next to no spectral network."""
PAGE = """# Which tile to tag next?

Written by `benchmarks/suggestion.py --publish` from `suggestion.json` beside it; do not edit.

Northern half of the development scene `virginia`, {seeds} seeds. A user tags {first} of {train} tiles, trains, tags as
many again, and so on: either those that *Suggest tiles to tag* ranks first, or others at random; both begin with the
same tiles. The transformer keeps all its 24 heads; what the ranks are worth where a classifier has few heads that
could disagree, as by default, was not measured. Macro-F1 of the tags of {validation} tiles in held-out blocks, mean ±
standard deviation over the seeds; *ahead*: suggested less random, seed by seed.

{table}
"""


def prepare(data: Path, folder: Path) -> TileIndex:
    """All tiles of the north with all their tags."""
    path = folder / "all.gpkg"
    tagged_tiles(data, path, **HELD_OUT)
    return read_tile_index(path)


def first_tiles(index: TileIndex, rng: np.random.Generator) -> np.ndarray:
    """A first draw of training tiles in which every class occurs, as a user would see to it."""
    tags, free = index.tags(), np.flatnonzero(index.frame["split"] == "train")
    wanted = (tags[free] == 1).any(axis=0)
    while True:
        chosen = rng.choice(free, TILES_PER_ROUND, replace=False)
        if ((tags[chosen] == 1).any(axis=0) >= wanted).all():
            return chosen


def simulate(index: TileIndex, folder: Path, seed: int, suggested: bool) -> list[dict[str, float]]:
    """Scores after each round of one user."""
    rng = np.random.default_rng(seed)
    chosen = first_tiles(index, rng)
    path, model = folder / "some.gpkg", folder / "classifier.safetensors"
    held_out = (index.frame["split"] == "validation").to_numpy()
    scores = []
    for number in range(ROUNDS):
        known = held_out.copy()
        known[chosen] = True
        tags = np.where(known[:, None], index.tags(), UNKNOWN).astype(np.int8)
        index.retagged(tags).write(path)
        result = job("train", tiles=path, output=model, seed=seed, **TRAINING).model_dump()
        scores.append({"tiles": len(chosen), "macro_f1": result["macro_f1"], "mean_ap": result["mean_ap"]})
        logging.info("seed %d  %-9s  %s", seed, "suggested" if suggested else "random", scores[-1])
        if number + 1 == ROUNDS:
            break
        if suggested:
            job("suggest", tiles=path, classifier=model)
            ranks = read_tile_index(path).frame["suggest_rank"].to_numpy(float, na_value=np.inf)
            more = np.argsort(ranks)[:TILES_PER_ROUND]
        else:
            free = np.setdiff1d(np.flatnonzero(index.frame["split"] == "train"), chosen)
            more = rng.choice(free, min(TILES_PER_ROUND, len(free)), replace=False)
        chosen = np.concatenate([chosen, more])
    return scores


def publish(parts: list[dict[str, Any]]) -> None:
    """Write the simulation into the documentation; seeds may have been run apart."""
    runs = [run for part in parts for run in part["runs"]]
    tiles = parts[0]["tiles"]
    seeds = sorted({run["seed"] for run in runs})
    (DOCS / "suggestion.json").write_text(json.dumps({"tiles": tiles, "runs": runs}, indent=1) + "\n", encoding="utf-8")
    scores = {(run["tiles"], run["seed"], run["how"]): run["macro_f1"] for run in runs}
    counts = sorted({count for count, *_ in scores})
    lines = ["| Tagged tiles | random | suggested | ahead |", f"|{' --- |' * 4}"]
    for name, rounds in [*((str(count), [count]) for count in counts), (f"mean from {counts[1]} on", counts[1:])]:
        values = {
            how: [float(np.mean([scores[count, seed, how] for count in rounds])) for seed in seeds]
            for how in ("random", "suggested")
        }
        values["ahead"] = [s - r for s, r in zip(values["suggested"], values["random"], strict=True)]
        cells = (
            f"{mean:{'+' * (how == 'ahead')}.3f} ± {sd:.3f}"
            for how, v in values.items()
            for mean, sd in [mean_and_spread(v)]
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    page = PAGE.format(seeds=len(seeds), **tiles, first=TILES_PER_ROUND, table="\n".join(lines))
    (DOCS / "suggestion.md").write_text(page, encoding="utf-8")


def main() -> None:
    """Run the simulation."""
    options = options_of(__doc__, ROOT / "build/suggestion.json").parse_args()
    if options.publish:
        publish(load(options.publish))
        return
    log_to_terminal()
    runs = []
    with tempfile.TemporaryDirectory(prefix="sparsevit-suggestion-") as folder:
        index = prepare(options.data, Path(folder))
        splits = index.frame["split"].value_counts()
        tiles = {split: int(splits[split]) for split in ("train", "validation")}
        for seed in options.seeds:
            for how in ("random", "suggested"):
                scores = simulate(index, Path(folder), seed, how == "suggested")
                runs += [{"seed": seed, "how": how, **score} for score in scores]
                save({"tiles": tiles, "runs": runs}, options.output)


if __name__ == "__main__":
    main()
