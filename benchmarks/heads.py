"""What are attention heads worth? Quality against heads kept, chosen by gates, by importance and by chance.

The study that users can run on their own tags, on the north of the development scene `virginia`: two fifths of the
blocks are held out, and nothing is chosen by them.

    python benchmarks/heads.py --data ../shared/data/virginia --seeds 0 1 2 --output build/heads.json

`docs/heads.*` are written from such files; seeds and shares may have been run apart, and `docs/heads.json` keeps those
of before. Delete it before publishing points of changed code:

    python benchmarks/heads.py --publish build/heads.json
"""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

from common.development import ROOT, job, load, log_to_terminal, options_of, reference_of, save, tagged_tiles
from common.results import DOCS
from sparsevit.assessment.study_report import ALLOWED_LOSS, Spread, beats, fewest_heads, study_figure
from sparsevit.geodata.tile_index import read_tile_index
from sparsevit.jobs.study_heads import summary
from sparsevit.training.head_study import StudyPoint

HELD_OUT: dict[str, Any] = {"validation_share": 0.4, "split_seed": 20}
SHARES = [0.5, 0.3, 0.1, 0.05]
PAGE = """# What are attention heads worth?

Written by `benchmarks/heads.py --publish` from `heads.json` beside it; do not edit.

Northern half of the development scene `virginia`, transformer of the preset *tiny* ({total} heads), seeds: {seeds}.
{train} tiles to learn from, {held_out} in held-out blocks. For each seed one transformer is trained with all its heads;
all variants, the one with all heads included, go on from its weights for as many epochs. Macro-F1 is that of the tags
of the held-out tiles, mIoU that of the joint evidence of transformer and spectra there, refined that of the map after
the rounds of refinement, where they were run. Three trainings of the same seeds made these rows: those of all, 7 and 1
heads are of one, those of 12 and 2 of an earlier, that of no heads of a later one. Without heads patches see no more
of each other than the stem does, and the class token, which sees none, says the same of every tile: that alone lowers
macro-F1. Mean ± standard deviation over the seeds.

![Macro-F1 and mIoU against heads kept](heads.png)

{table}

{verdict}
"""


def study(data: Path, seeds: list[int], shares: list[float], refined: bool, output: Path) -> None:
    """Save the points of the seeds so far, and the tiles they were measured on."""
    points: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="sparsevit-heads-") as name:
        folder = Path(name)
        tiles, page, numbers = folder / "tiles.gpkg", folder / "study.html", folder / "study.json"
        tagged_tiles(data, tiles, **HELD_OUT)
        splits = read_tile_index(tiles).frame["split"].value_counts()
        for seed in seeds:
            files = {"tiles": tiles, "reference": reference_of(data), "output": page, "json_output": numbers}
            job("study heads", **files, seeds=1, seed=seed, shares=shares, refined=refined)
            points += json.loads(numbers.read_text(encoding="utf-8"))["points"]
            counts = {split: int(splits[split]) for split in ("train", "validation")}
            save({"tiles": counts, "points": points}, output)


def publish(parts: list[dict[str, Any]]) -> None:
    """Add points to those of the documentation, and write the study anew."""
    file = DOCS / "heads.json"
    if file.exists():
        parts = load([file]) + parts
    tiles = parts[0]["tiles"]
    if any(part["tiles"] != tiles for part in parts):
        raise SystemExit("The results are of other tiles than those published, or than each other.")
    every = [StudyPoint(**point) for part in parts for point in part["points"]]
    points = {(point.share, point.method, point.seed): point for point in every}
    seeds = sorted({point.seed for point in every})
    if any((share, method, seed) not in points for share, method, _ in points for seed in seeds):
        raise SystemExit("Some seeds lack shares that others have: publish the same shares of all seeds.")
    save({"tiles": tiles, "points": [vars(point) for point in points.values()]}, file)
    whole, *rows = summary(list(points.values()))
    (DOCS / "heads.png").write_bytes(base64.b64decode(study_figure(rows, whole).partition(",")[2]))
    rows.sort(key=lambda row: -row.heads)  # stable: the methods keep their order
    chance = {row.share: row for row in rows if row.method == "random heads"}
    learned = [row for row in rows if row.method == "learned gates"]
    page = PAGE.format(
        total=whole.heads,
        seeds=", ".join(map(str, seeds)),
        train=tiles["train"],
        held_out=tiles["validation"],
        table=_table([whole, *rows]),
        verdict=_verdict(whole, learned, chance) if len(seeds) > 1 else "One seed tells nothing of the spread.",
    )
    (DOCS / "heads.md").write_text(page, encoding="utf-8")


def _table(rows: list[Spread]) -> str:
    lines = ["| Heads | chosen by | macro-F1 | mIoU | refined |", f"|{' --- |' * 5}"]
    for row in rows:
        refined = "" if row.refined_miou_mean is None else f"{row.refined_miou_mean:.3f} ± {row.refined_miou_sd:.3f}"
        lines.append(
            f"| {row.heads} | {row.method} | {row.f1_mean:.3f} ± {row.f1_sd:.3f} | "
            f"{row.miou_mean:.3f} ± {row.miou_sd:.3f} | {refined} |"
        )
    return "\n".join(lines)


def _verdict(whole: Spread, learned: list[Spread], chance: dict[float, Spread]) -> str:
    fewest = fewest_heads(learned, whole, "learned gates")
    ahead = sum(beats(row, chance[row.share]) for row in learned)
    near = f"{fewest.heads} heads that gates chose are" if fewest else "No smaller number of heads that gates chose is"
    return (
        f"{near} within {ALLOWED_LOSS} macro-F1 of all heads. Learned gates are above as many random heads by more\n"
        f"than one standard deviation at {ahead} of {len(learned)} numbers of heads."
    )


def main() -> None:
    """Run the study, or publish it."""
    parser = options_of(__doc__, ROOT / "build/heads.json")
    parser.add_argument("--shares", type=float, nargs="*", default=SHARES, help="shares of the heads to keep, if any")
    parser.add_argument("--refined", action="store_true", help="also refine every variant and score its final map")
    options = parser.parse_args()
    if options.publish:
        publish(load(options.publish))
        return
    log_to_terminal()
    study(options.data, options.seeds, options.shares, options.refined, options.output)


if __name__ == "__main__":
    main()
