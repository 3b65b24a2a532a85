"""The table of `benchmarks/quality.py` as a page of the documentation."""

from __future__ import annotations

from typing import Any

from common.development import CHOSEN_ON
from common.results import DOCS, mean_and_spread, merged

PRODUCT = "refined map"
"""The row that all others are compared with."""
PAGE = """# How good is a map from tags?

Written by `benchmarks/quality.py --publish` from `quality.json` beside it; do not edit.

Northern half of the development scene `virginia` (Sentinel-2, ten bands at 10 m), classes of DFC2020. Spatial blocks
with a gap, drawn anew for each of {seeds} seeds: {tiles} tiles of 640 m. All rows learn from the
same tiles, and all but the supervised ones and the oracles from their tags alone: which classes cover at least a tenth
of a tile.
Scored on the test blocks, from which nothing was learned and whose tags nobody saw; classes below 0.2 % of the pixels
do not count. The maps of all networks are drawn the same way: overlapping tiles, blended, with the same edges.

Mean ± standard deviation over the seeds. Most of the spread is that of the blocks, which all rows share; how far a row
is behind the refined map is therefore the mean ± standard deviation of the differences, seed by seed. Rows were run at
different times, and one training is not the next: the pseudomask, learned again, moved by up to 0.008 on one set, the
refined map of one set by 0.006. The split seeds are
{splits}. Settings were chosen on the blocks of {chosen_on}; 57 % of the test tiles of 20, 21 and 22 are among
the test tiles there, too.

{table}

{roles}

![Scene, attention head, evidence, reference and maps of one set of blocks](maps.png)

*The head that follows a class most closely, the evidence of that class, and maps of the set of blocks of seed 2, as
`--seeds 2 --picture docs/maps.png` draws them, with only the rows that are shown. Maps are scored on the tiles that are
outlined, from which nothing was learned.*

All on {threads}. The published recipe names clusters of attention by the rank of their
strength, without edge refinement and blending; it and WeakTr keep 30 % of their heads, the others as many as the
product finds, unless their name says how many. *As published* is not the whole of WeakTr: it starts from random
weights, has the product's stem and 40 m patches, and its maps count by their peaks in the training tiles, without a
threshold for background. The refined maps of WeakTr learn its class maps joined with spectra; what they are joined
with, and guarded by, is the evidence of its coarse map and the spectra. Where the guard refuses all rounds, as it did
the Segmenter's on all sets, the refined map is the evidence. Rows are of code of 22 to 30 November 2026, some computed
with bfloat16, some with 32 bits.
The reference is the output of a published model on the same image, not ground truth.
"""
ROLES = {
    "control": "what the product has to beat",
    "default": "what users get",
    "supervised": "trained on the full masks of the same tiles, the upper bound",
    "oracle": "told by the reference what it cannot know",
    "ablation": "parts and options",
}


def publish(parts: list[dict[str, Any]]) -> None:
    """Write rows into the table of the documentation."""
    (DOCS / "quality.md").write_text(_page(merged(parts, DOCS / "quality.json")), encoding="utf-8")


def _page(data: dict[str, Any]) -> str:
    product = next((row["miou"] for row in data["rows"] if row["name"] == PRODUCT), None)
    lines = ["| Map | Role | mIoU | behind the refined map | OA | AA |", f"|{' --- |' * 6}"]
    for row in data["rows"]:
        lead = ""
        if product and row["name"] != PRODUCT:
            mean, spread = mean_and_spread([p - m for p, m in zip(product, row["miou"], strict=True)])
            lead = f"{mean:+.3f} ± {spread:.3f}"
        mean, spread = mean_and_spread(row["miou"])
        scores = f"{mean:.3f} ± {spread:.3f} | {lead} | {row['oa_mean']:.3f} | {row['aa_mean']:.3f}"
        lines.append(f"| {row['name']} | {row['role']} | {scores} |")
    ranges = {name: [tiles[name] for tiles in data["tiles"]] for name in data["tiles"][0]}
    counts = ", ".join(f"{min(n)} to {max(n)} {name}" for name, n in ranges.items())
    roles = {row["role"] for row in data["rows"]}
    told = " ".join(f"*{role.title()}*: {what}." for role, what in ROLES.items() if role in roles)
    threads = "one CPU thread" if data["threads"] == 1 else f"{data['threads']} CPU threads"
    splits = ", ".join(str(data["split_seed"] + seed) for seed in data["seeds"])
    text = {"table": "\n".join(lines), "roles": told, "threads": threads}
    return PAGE.format(seeds=len(data["seeds"]), tiles=counts, splits=splits, chosen_on=CHOSEN_ON, **text)
