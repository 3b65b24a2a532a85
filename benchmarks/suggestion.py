"""Does tagging the suggested tiles teach more than tagging others? A simulation on the development scene `virginia`.

A user tags a few tiles of the north, trains, tags as many again, and so on: either those that `suggest` ranks first, or
others at random. The classifier of each round is scored on the tags of held-out blocks.

    python benchmarks/suggestion.py --data ../shared/data/virginia --seeds 0 1 2 --output build/suggestion.json
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from common.development import ROOT, job, log_to_terminal, options_of, save, tagged_tiles
from sparsevit.geodata.tile_index import UNKNOWN, TileIndex, read_tile_index

TILES_PER_ROUND = 24
ROUNDS = 4
HELD_OUT: dict[str, Any] = {"validation_share": 0.4, "split_seed": 2}
TRAINING = {"heads_kept": 1.0, "controls": False, "epochs": 60, "spectral_epochs": 1}
"""The transformer alone is asked and scored: no pruning, and next to no spectral network."""


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
    assert index.scheme is not None and index.presence_threshold is not None
    scores = []
    for number in range(ROUNDS):
        known = held_out.copy()
        known[chosen] = True
        tags = np.where(known[:, None], index.tags(), UNKNOWN).astype(np.int8)
        index.with_tags(index.scheme, tags, index.presence_threshold).write(path)
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


def main() -> None:
    """Run the simulation."""
    options = options_of(__doc__, ROOT / "build/suggestion.json").parse_args()
    log_to_terminal()
    runs = []
    with tempfile.TemporaryDirectory(prefix="sparsevit-suggestion-") as folder:
        index = prepare(options.data, Path(folder))
        for seed in options.seeds:
            for how in ("random", "suggested"):
                scores = simulate(index, Path(folder), seed, how == "suggested")
                runs += [{"seed": seed, "how": how, **score} for score in scores]
                save(runs, options.output)
    for tiles in dict.fromkeys(run["tiles"] for run in runs):
        cells = []
        for how in ("random", "suggested"):
            values = [run["macro_f1"] for run in runs if run["tiles"] == tiles and run["how"] == how]
            spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
            cells.append(f"{how} {np.mean(values):.3f} ± {spread:.3f}")
        print(f"{tiles:4.0f} tiles, macro-F1: {',  '.join(cells)}")


if __name__ == "__main__":
    main()
