"""Does tagging the suggested tiles teach more than tagging others? A simulation on the development scene `virginia`.

A user tags a few tiles of the north, trains, tags as many again, and so on: either those that `suggest` ranks first, or
others at random. The classifier of each round is scored on the tags of held-out blocks.

    python benchmarks/suggestion.py --data ../shared/data/virginia --seeds 0 1 2 --output build/suggestion.json
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path

import numpy as np
import rasterio

from sparsevit.geodata.tile_index import UNKNOWN, TileIndex, read_tile_index
from sparsevit.jobs import get_job
from sparsevit.jobs.base import Result
from sparsevit.reporting import Reporter

ROOT = Path(__file__).resolve().parents[1]
SCHEME = ROOT / "resources/schemes/dfc2020.json"
NORTH_ROWS = 1024
TILES_PER_ROUND = 24
ROUNDS = 4
HELD_OUT = {"validation_share": 0.4, "split_seed": 2}
TRAINING = {"heads_kept": 1.0, "controls": False, "epochs": 60, "spectral_epochs": 1}
"""The transformer alone is asked and scored: no pruning, and next to no spectral network."""


def job(name: str, **params: object) -> Result:
    """Run a job of the engine."""
    return get_job(name).execute(params, Reporter())


def prepare(data: Path, folder: Path) -> TileIndex:
    """All tiles of the north with all their tags."""
    scene, path = [data / "s2_l1c_10m.tif", data / "s2_l1c_20m.tif"], folder / "all.gpkg"
    with rasterio.open(scene[0]) as src:
        t = src.transform
        extent = (t.c, t.f + NORTH_ROWS * t.e, t.c + src.width * t.a, t.f)
    job("tiles", scene=scene, extent=extent, output=path, **HELD_OUT)
    job("tag", tiles=path, scheme=SCHEME, source="raster", raster=data / "label_dfc_north.tif")
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data/virginia")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=ROOT / "build/suggestion.json")
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"{options.data} does not exist: the simulation needs the development scene.")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    runs = []
    with tempfile.TemporaryDirectory(prefix="sparsevit-suggestion-") as folder:
        index = prepare(options.data.resolve(), Path(folder))
        for seed in options.seeds:
            for how in ("random", "suggested"):
                scores = simulate(index, Path(folder), seed, how == "suggested")
                runs += [{"seed": seed, "how": how, **score} for score in scores]
                options.output.parent.mkdir(parents=True, exist_ok=True)
                options.output.write_text(json.dumps(runs, indent=1))
    for tiles in dict.fromkeys(run["tiles"] for run in runs):
        cells = []
        for how in ("random", "suggested"):
            values = [run["macro_f1"] for run in runs if run["tiles"] == tiles and run["how"] == how]
            spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
            cells.append(f"{how} {np.mean(values):.3f} ± {spread:.3f}")
        print(f"{tiles:4.0f} tiles, macro-F1: {',  '.join(cells)}")


if __name__ == "__main__":
    main()
