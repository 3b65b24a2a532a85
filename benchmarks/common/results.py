"""Results of benchmarks over seeds: summarised, and joined with those that the documentation has."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.development import ROOT

Scores = dict[str, Any]
"""One row of one seed: its role, scores and seconds."""
DOCS = ROOT / "docs"
SETTING = ("split_seed", "epochs", "threads")
"""What has to be the same in all results of one table."""


def results_of(
    options: argparse.Namespace, tiles: list[dict[str, int]], runs: list[dict[str, Scores]]
) -> dict[str, Any]:
    """What is saved of a run, finished or not: its setting, and tiles and rows of the seeds so far."""
    setting = {"split_seed": options.split_seed, "epochs": options.epochs, "threads": torch.get_num_threads()}
    return setting | {"seeds": options.seeds[: len(runs)], "tiles": tiles, "runs": runs}


def summary(seeds: list[dict[str, Scores]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds, and the mIoU of each seed."""
    out = []
    for name in seeds[0]:
        columns = {m: [float(seed[name][m]) for seed in seeds] for m in ("miou", "oa", "aa", "seconds")}
        entry: dict[str, Any] = {"name": name, "role": seeds[0][name]["role"]}
        entry["miou"] = [round(value, 4) for value in columns["miou"]]
        entry["miou_mean"], entry["miou_sd"] = (round(value, 6) for value in mean_and_spread(columns["miou"]))
        entry |= {f"{m}_mean": round(mean_and_spread(columns[m])[0], 4) for m in ("oa", "aa")}
        out.append(entry | {"seconds": round(mean_and_spread(columns["seconds"])[0], 1)})
    return out


def mean_and_spread(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation over seeds; the latter is 0 for one seed."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def merged(parts: list[dict[str, Any]], file: Path) -> dict[str, Any]:
    """Write the rows of results into a file of the documentation, and return all that it holds then.

    Rows and seeds may have been run apart. Rows of the file that the results lack stay as they are, if they are of the
    same setting: whoever changes what they measured, deletes the file first.

    Args:
        parts: Results, as the benchmarks save them.
        file: JSON in the documentation.
    """
    setting = {name: parts[0][name] for name in SETTING}
    if any(part[name] != value for part in parts for name, value in setting.items()):
        raise SystemExit("The results are of different blocks, epochs or threads: publish those of one setting.")
    runs: dict[int, dict[str, Scores]] = {}
    tiles: dict[int, dict[str, int]] = {}
    for part in parts:
        for seed, run, counts in zip(part["seeds"], part["runs"], part["tiles"], strict=True):
            runs.setdefault(seed, {}).update(run)
            tiles[seed] = counts
    seeds = sorted(runs)
    if len({frozenset(run) for run in runs.values()}) > 1:
        raise SystemExit("Some seeds lack rows that others have: publish the same rows of all seeds.")
    data = setting | {"seeds": seeds, "tiles": [tiles[seed] for seed in seeds]}
    rows = {row["name"]: row for row in summary([runs[seed] for seed in seeds])}
    if file.exists():
        published = json.loads(file.read_text(encoding="utf-8"))
        old = {row["name"]: row for row in published.pop("rows")}
        if published == data:
            rows = old | rows
        elif {name: published[name] for name in setting} == setting:
            raise SystemExit("The results are of other seeds or tiles than the published table.")
    data["rows"] = list(rows.values())
    file.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return data
