"""The table of `benchmarks/quality.py` as a page of the documentation."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from common.development import CHOSEN_ON, ROOT

Scores = dict[str, float | str]
"""One row of one seed: its role, scores and seconds."""
DOCS = ROOT / "docs"
SETTING = ("split_seed", "epochs", "tiles", "threads")
"""What has to be the same in all results of one table."""
PAGE = """# How good is a map from tags?

Written by `benchmarks/quality.py --publish` from `quality.json` beside it; do not edit.

Northern half of the development scene `virginia` (Sentinel-2, ten bands at 10 m), classes of DFC2020. Spatial blocks
with a gap: {tiles} tiles of 640 m (blocks of split seed {split}; settings were chosen on those of seeds {chosen_on}).
All rows learn from the same tiles, and all but the supervised ones from their tags alone: which classes cover at least
a tenth of a tile. Scored on the test blocks, from which nothing was learned and whose tags nobody saw; classes below
0.2 % of the pixels do not count. The maps of all networks are drawn the same way: overlapping tiles, blended, with the
same edge refinement. Mean ± standard deviation over {seeds} seeds; the blocks are the same for all of them.

{table}

{roles}

Seconds are those of {threads}, and include the training of the classifier where a row needs it. The published recipe
names clusters of attention by the rank of their strength, without edge refinement and blending. The reference is the
output of a published model on the same image, not ground truth.
"""
ROLES = {
    "control": "what the product has to beat",
    "default": "what users get",
    "supervised": "trained on the full masks of the same tiles, the upper bound",
    "oracle": "told by the reference what it cannot know",
    "ablation": "parts and options",
}


def summary(seeds: list[dict[str, Scores]]) -> list[Scores]:
    """Mean and standard deviation over seeds."""
    out: list[Scores] = []
    for name in seeds[0]:
        entry: Scores = {"name": name, "role": seeds[0][name]["role"]}
        for measure in ("miou", "oa", "aa", "seconds"):
            values = np.array([float(seed[name][measure]) for seed in seeds])
            entry[f"{measure}_mean"] = round(float(values.mean()), 4)
            entry[f"{measure}_sd"] = round(float(values.std(ddof=1)) if len(values) > 1 else 0.0, 4)
        out.append(entry)
    return out


def publish(parts: list[dict[str, Any]]) -> None:
    """Write the table into the documentation; seeds and rows may have been run apart."""
    if any(part[name] != parts[0][name] for part in parts for name in SETTING):
        raise SystemExit("The results are of different blocks, epochs or threads: publish those of one setting.")
    runs: dict[int, dict[str, Scores]] = {}
    for part in parts:
        for seed, run in zip(part["seeds"], part["runs"], strict=True):
            runs.setdefault(seed, {}).update(run)
    if len({frozenset(run) for run in runs.values()}) > 1:
        raise SystemExit("Some seeds lack rows that others have: publish the same rows of all seeds.")
    rows = []
    for row in summary(list(runs.values())):
        kept = {name: row[name] for name in ("name", "role", "miou_mean", "miou_sd", "oa_mean", "aa_mean")}
        rows.append(kept | {"seconds": row["seconds_mean"]})
    data = {name: parts[0][name] for name in SETTING} | {"seeds": sorted(runs), "rows": rows}
    (DOCS / "quality.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    lines = [f"| {cells} |" for cells in ("Map | Role | mIoU | OA | AA | seconds", "--- | --- | --- | --- | --- | ---")]
    for row in rows:
        miou = f"{row['miou_mean']:.3f} ± {row['miou_sd']:.3f}"
        scores = f"{miou} | {row['oa_mean']:.3f} | {row['aa_mean']:.3f} | {row['seconds']:.0f}"
        lines.append(f"| {row['name']} | {row['role']} | {scores} |")
    seeds, tiles = len(data["seeds"]), ", ".join(f"{count} {name}" for name, count in data["tiles"].items())
    roles = " ".join(f"*{role.title()}*: {what}." for role, what in ROLES.items() if role in {r["role"] for r in rows})
    threads = "one CPU thread" if data["threads"] == 1 else f"{data['threads']} CPU threads"
    text = {"table": "\n".join(lines), "roles": roles, "threads": threads}
    page = PAGE.format(seeds=seeds, tiles=tiles, split=data["split_seed"], chosen_on=CHOSEN_ON, **text)
    (DOCS / "quality.md").write_text(page, encoding="utf-8")
