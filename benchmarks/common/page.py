"""The table of `benchmarks/quality.py` as a page of the documentation."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from common.development import CHOSEN_ON, ROOT

Scores = dict[str, float | str]
"""One row of one seed: its role, scores and seconds."""
PRODUCT = "refined map"
"""The row that all others are compared with."""
COLUMNS = ("name", "role", "miou_mean", "miou_sd", "lead_mean", "lead_sd", "oa_mean", "aa_mean")
DOCS = ROOT / "docs"
SETTING = ("split_seed", "epochs", "threads")
"""What has to be the same in all results of one table."""
PAGE = """# How good is a map from tags?

Written by `benchmarks/quality.py --publish` from `quality.json` beside it; do not edit.

Northern half of the development scene `virginia` (Sentinel-2, ten bands at 10 m), classes of DFC2020. Spatial blocks
with a gap, drawn anew for each of {seeds} seeds: {tiles} tiles of 640 m. All rows learn from the
same tiles, and all but the supervised ones from their tags alone: which classes cover at least a tenth of a tile.
Scored on the test blocks, from which nothing was learned and whose tags nobody saw; classes below 0.2 % of the pixels
do not count. The maps of all networks are drawn the same way: overlapping tiles, blended, with the same edges.

Mean ± standard deviation over the seeds. Most of the spread is that of the blocks, which all rows share; how far a row
is behind the refined map is therefore the mean ± standard deviation of the differences, seed by seed. The split seeds
are {splits}. Settings were chosen on the blocks of {chosen_on}; 57 % of the test tiles of 20, 21 and 22 are among
the test tiles there, too.

{table}

{roles}

Seconds are those of {threads} of a machine that did other work beside, and include the training of the classifier
where a row needs it. The published recipe names clusters of attention by the rank of their strength, without edge
refinement and blending. The reference is the output of a published model on the same image, not ground truth.
"""
ROLES = {
    "control": "what the product has to beat",
    "default": "what users get",
    "supervised": "trained on the full masks of the same tiles, the upper bound",
    "oracle": "told by the reference what it cannot know",
    "ablation": "parts and options",
}


def summary(seeds: list[dict[str, Scores]]) -> list[Scores]:
    """Mean and standard deviation over seeds; `lead` is by how much mIoU the product is ahead of a row."""
    out: list[Scores] = []
    for name in seeds[0]:
        entry: Scores = {"name": name, "role": seeds[0][name]["role"]}
        columns = {m: [float(seed[name][m]) for seed in seeds] for m in ("miou", "oa", "aa", "seconds")}
        if PRODUCT in seeds[0] and name != PRODUCT:
            columns["lead"] = [float(seed[PRODUCT]["miou"]) - float(seed[name]["miou"]) for seed in seeds]
        for measure, values in columns.items():
            entry[f"{measure}_mean"] = round(float(np.mean(values)), 4)
            entry[f"{measure}_sd"] = round(float(np.std(values, ddof=1)) if len(values) > 1 else 0.0, 4)
        out.append(entry)
    return out


def publish(parts: list[dict[str, Any]]) -> None:
    """Write the table into the documentation; seeds and rows may have been run apart."""
    if any(part[name] != parts[0][name] for part in parts for name in SETTING):
        raise SystemExit("The results are of different blocks, epochs or threads: publish those of one setting.")
    runs: dict[int, dict[str, Scores]] = {}
    tiles: dict[int, dict[str, int]] = {}
    for part in parts:
        for seed, run, counts in zip(part["seeds"], part["runs"], part["tiles"], strict=True):
            runs.setdefault(seed, {}).update(run)
            tiles[seed] = counts
    if len({frozenset(run) for run in runs.values()}) > 1:
        raise SystemExit("Some seeds lack rows that others have: publish the same rows of all seeds.")
    rows = []
    for row in summary(list(runs.values())):
        kept = {name: row[name] for name in COLUMNS if name in row}
        rows.append(kept | {"seconds": row["seconds_mean"]})
    seeds = sorted(runs)
    data = {name: parts[0][name] for name in SETTING}
    data |= {"seeds": seeds, "tiles": [tiles[seed] for seed in seeds], "rows": rows}
    (DOCS / "quality.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    lines = ["| Map | Role | mIoU | behind the refined map | OA | AA | seconds |", f"|{' --- |' * 7}"]
    for row in rows:
        lead = f"{row['lead_mean']:+.3f} ± {row['lead_sd']:.3f}" if "lead_mean" in row else ""
        scores = f"{row['oa_mean']:.3f} | {row['aa_mean']:.3f} | {row['seconds']:.0f}"
        lines.append(
            f"| {row['name']} | {row['role']} | {row['miou_mean']:.3f} ± {row['miou_sd']:.3f} | {lead} | {scores} |"
        )
    ranges = {name: [tiles[seed][name] for seed in seeds] for name in tiles[seeds[0]]}
    counts = ", ".join(f"{min(n)} to {max(n)} {name}" for name, n in ranges.items())
    roles = " ".join(f"*{role.title()}*: {what}." for role, what in ROLES.items() if role in {r["role"] for r in rows})
    threads = "one CPU thread" if data["threads"] == 1 else f"{data['threads']} CPU threads"
    splits = ", ".join(str(data["split_seed"] + seed) for seed in seeds)
    text = {"table": "\n".join(lines), "roles": roles, "threads": threads}
    page = PAGE.format(seeds=len(seeds), tiles=counts, splits=splits, chosen_on=CHOSEN_ON, **text)
    (DOCS / "quality.md").write_text(page, encoding="utf-8")
