"""The report of a study of heads: quality against the number of heads, by how they were chosen."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sparsevit import __version__
from sparsevit.assessment.figures import DPI, INK, embedded, quiet
from sparsevit.assessment.notes import caution_notes
from sparsevit.assessment.report import plain, templates
from sparsevit.outputs import whole_file

ALLOWED_LOSS = 0.005
"""Macro-F1 that fewer heads may cost: half a point."""
COLORS = {"learned gates": "#1c6e4a", "Taylor importance": "#2b6cb0", "random heads": "#b7791f"}


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds of one method at one number of heads; none where nothing was measured.

    Attributes:
        method: How the heads were chosen.
        share: Share of the heads (0–1).
        heads: Number of heads.
        f1_mean: Macro-F1 of held-out tags.
        ap_mean: Their mean average precision.
        miou_mean: mIoU of the evidence.
        refined_miou_mean: mIoU of the refined map.
    """

    method: str
    share: float
    heads: int
    f1_mean: float
    f1_sd: float
    ap_mean: float
    ap_sd: float
    miou_mean: float | None = None
    miou_sd: float | None = None
    refined_miou_mean: float | None = None
    refined_miou_sd: float | None = None


def fewest_heads(rows: list[Spread], whole: Spread, method: str) -> Spread | None:
    """The fewest heads of a method whose mean macro-F1 is within half a point of all heads; none if none is."""
    fine = [row for row in rows if row.method == method and row.f1_mean >= whole.f1_mean - ALLOWED_LOSS]
    return min(fine, key=lambda row: row.heads, default=None)


def beats(row: Spread, control: Spread) -> bool:
    """Whether a mean macro-F1 lies above that of a control by more than one standard deviation of either."""
    return row.f1_mean - control.f1_mean > max(row.f1_sd, control.f1_sd)


def study_figure(rows: list[Spread], whole: Spread) -> str:
    """Macro-F1, and mIoU where there is a reference, against the number of heads.

    Returns:
        A `data:` address of the PNG.
    """
    named = {
        "f1": "Macro-F1 of held-out tags",
        "miou": "mIoU of the evidence",
        "refined_miou": "mIoU of the refined map",
    }
    shown = {name: title for name, title in named.items() if getattr(whole, f"{name}_mean") is not None}
    figure = Figure(figsize=(5.2 * len(shown), 4.1), dpi=DPI, layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        mean, sd = getattr(whole, f"{name}_mean"), getattr(whole, f"{name}_sd")
        axes.axhspan(mean - sd, mean + sd, color="#dfe4e8", linewidth=0)
        axes.axhline(mean, color=INK, linewidth=1, label=f"all {whole.heads} heads")
        for row in rows:  # a number of heads that the axis, being logarithmic, cannot show
            if row.heads == 0 and (value := getattr(row, f"{name}_mean")) is not None:
                axes.axhline(value, color=INK, linewidth=1, linestyle=":", label="no heads")
        for k, (method, color) in enumerate(COLORS.items()):
            measured = (r for r in rows if r.method == method and getattr(r, f"{name}_mean") is not None)
            line = sorted(measured, key=lambda row: row.heads)
            heads = np.array([row.heads for row in line]) * (1 + 0.02 * (k - 1))  # side by side, so that bars show
            values = [getattr(row, f"{name}_mean") for row in line]
            spread = [getattr(row, f"{name}_sd") for row in line]
            axes.errorbar(heads, values, spread, color=color, marker="o", markersize=4, capsize=3, label=method)
        counts = sorted({row.heads for row in rows if row.heads} | {whole.heads})
        axes.set_xscale("log")
        axes.set_xticks(counts, [str(c) for c in counts])
        axes.minorticks_off()
        axes.set_xlabel("heads kept")
        axes.set_title(title, size=10, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        quiet(axes)
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, ncols=2, loc="outside lower center")
    return embedded(figure)


def write_study(
    rows: list[Spread], seeds: int, tiles: int, provenance: dict[str, str], cautions: list[str], path: Path
) -> None:
    """Write the study as one self-contained page.

    Args:
        rows: All heads first, then none, then every method and share.
        seeds: Number of seeds.
        tiles: Number of held-out tiles.
        provenance: Where the numbers come from, by name.
        cautions: What the tags cannot teach any number of heads.
        path: Page to write (.html).
    """
    whole, others = rows[0], rows[1:]
    chance = {row.share: row for row in others if row.method == "random heads"}
    learned = [row for row in others if row.method == "learned gates"]
    page = (
        templates()
        .get_template("study.html")
        .render(
            rows=rows,
            whole=whole,
            seeds=seeds,
            tiles=tiles,
            allowed=ALLOWED_LOSS,
            fewest=fewest_heads(others, whole, "learned gates"),
            beaten=sum(beats(row, chance[row.share]) for row in learned),
            compared=len(learned),
            figure=study_figure(others, whole),
            provenance=provenance,
            notes=caution_notes(cautions, "networks"),
            version=__version__,
        )
    )
    with whole_file(path) as partial:
        partial.write_text(page, encoding="utf-8")


def write_study_json(
    rows: list[Spread], points: list[dict[str, object]], provenance: dict[str, str], path: Path
) -> None:
    """Write the study as JSON: means and standard deviations, and every single network."""
    data = {"engine": __version__, "rows": [vars(row) for row in rows], "points": points, "provenance": provenance}
    with whole_file(path) as partial:
        partial.write_text(json.dumps(plain(data), indent=2, ensure_ascii=False), encoding="utf-8")
