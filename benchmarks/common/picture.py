"""An attention head, evidence and maps side by side, as a picture for the documentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from rasterio.windows import Window

from common.development import NORTH_ROWS, job
from common.trial import Trial
from sparsevit.geodata.scene import open_scene
from sparsevit.geodata.tile_index import read_tile_index

INCHES, DPI, COLUMNS = 4.2, 150, 3
STRETCH = (2, 98)
"""Percentiles of each band that become black and white."""


def draw(trial: Trial, rasters: dict[str, Path], output: Path) -> None:
    """The scene, a head, evidence, the reference, and maps; the tiles that maps are scored on are outlined."""
    with rasterio.open(trial.truth) as src:
        part = Window(0, 0, src.width, NORTH_ROWS)
    inside = head_and_evidence(trial, part)
    maps = {"Reference": trial.truth, **rasters}
    rows = -(-(1 + len(inside) + len(maps)) // COLUMNS)
    figure = Figure((COLUMNS * INCHES, rows * (INCHES * part.height / part.width + 0.3) + 0.4), layout="constrained")
    scene, *axes = figure.subplots(rows, COLUMNS).flat
    scene.imshow(_true_colour(trial, part), interpolation="nearest")
    scene.set_title("Sentinel-2, and the tiles that maps are scored on", fontsize=9)
    for window in read_tile_index(trial.tiles).in_split("test").windows():
        corner = (window.col_off, window.row_off)
        scene.add_patch(Rectangle(corner, window.width, window.height, fill=False, edgecolor="white", linewidth=0.4))
    for axis, (name, values) in zip(axes, inside, strict=False):
        axis.imshow(values, "viridis", vmin=0, vmax=np.percentile(values, STRETCH[1]), interpolation="nearest")
        axis.set_title(name, fontsize=9)
    codes = trial.scheme.codes
    colours = ListedColormap([c.color for c in trial.scheme.classes])
    limits = BoundaryNorm([*(code - 0.5 for code in codes), codes[-1] + 0.5], len(codes))
    for axis, (name, path) in zip(axes[len(inside) :], maps.items(), strict=False):
        with rasterio.open(path) as src:
            values = src.read(1, window=part)
        axis.imshow(np.ma.masked_where(~np.isin(values, codes), values), colours, limits, interpolation="nearest")
        axis.set_title(name, fontsize=9)
    for axis in (scene, *axes):
        axis.set_axis_off()
    legend = [Patch(color=c.color, label=c.name) for c in trial.scheme.classes]
    figure.legend(handles=legend, loc="outside lower center", ncols=len(legend), fontsize=8, frameon=False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=DPI)


def head_and_evidence(trial: Trial, part: Window) -> list[tuple[str, np.ndarray]]:
    """Where the head looks that follows a class most closely, and the evidence of that class.

    Returns:
        Title and values `[H, W]` of both.
    """
    model, area = trial.classifier(), {"scene": trial.scene, "extent": trial.extent}
    looks, evidence = trial.folder / "looks.tif", trial.folder / "class_evidence.tif"
    heads = job("inspect", model=model, output=looks, **area).heads
    job("predict", model=model, output=trial.folder / "unused.tif", probabilities=evidence, **area)
    r, k, name = max((r, k, name) for k, head in enumerate(heads) for name, r in head.correlation.items())
    place = f"block {heads[k].block}, head {heads[k].head}"
    with rasterio.open(looks) as src:
        attention = src.read(k + 1, window=part)
    with rasterio.open(evidence) as src:
        probability = src.read(src.descriptions.index(name) + 1, window=part)
    return [
        (f"Attention of {place} ({name.lower()} {r:+.2f})", attention),
        (f"Evidence of {name.lower()}", probability),
    ]


def _true_colour(trial: Trial, part: Window) -> np.ndarray:
    """Part of the scene in B04, B03, B02 `[H, W, 3]`, 0 to 1."""
    with open_scene(trial.scene) as scene:
        values, _ = scene.select(["B04", "B03", "B02"], "The picture").read(part)
    low, high = np.percentile(values, STRETCH, axis=(1, 2))[:, :, None, None]
    return np.moveaxis(np.clip((values - low) / (high - low), 0, 1), 0, 2)
