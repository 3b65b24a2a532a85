"""Figures of the accuracy report, as PNG inside the page."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from sparsevit.assessment.accuracy import Accuracy
from sparsevit.assessment.area import AreaEstimate
from sparsevit.geodata.legend import ClassScheme

DPI = 130
INK = "#24323d"
RIGHT, WRONG, UNKNOWN = (0.33, 0.66, 0.41), (0.80, 0.28, 0.24), (0.90, 0.91, 0.92)


def confusion_figure(result: Accuracy, scheme: ClassScheme) -> str:
    """The confusion matrix: each column shows where the reference pixels of a class went on the map.

    Returns:
        A `data:` address of the PNG.
    """
    used = np.flatnonzero((result.confusion.sum(axis=0) > 0) | (result.confusion.sum(axis=1) > 0))
    counts = result.confusion[np.ix_(used, used)]
    share = counts / np.maximum(counts.sum(axis=0, keepdims=True), 1)
    names = [scheme.names[i] for i in used]
    size = 1.7 + 0.56 * len(used)
    figure = Figure(figsize=(size + 1.2, size), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(used)), names, rotation=40, ha="right")
    axes.set_yticks(range(len(used)), names)
    axes.set_xlabel("Reference")
    axes.set_ylabel("Map")
    for (row, col), value in np.ndenumerate(share):
        if counts[row, col]:
            text = f"{value:.0%}" if value >= 0.005 else "<1%"
            weight = "bold" if row == col else "normal"
            axes.text(
                col, row, text, ha="center", va="center", size=8.5, weight=weight, color="w" if value > 0.55 else INK
            )
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("share of the reference class", size=8)
    bar.ax.tick_params(labelsize=8)
    quiet(axes)
    return embedded(figure)


def area_figure(areas: AreaEstimate, scheme: ClassScheme) -> str:
    """Mapped against estimated areas, with 95 % intervals."""
    used = np.flatnonzero((areas.mapped > 0) | (areas.estimated > 0))
    figure = Figure(figsize=(7.2, 0.9 + 0.48 * len(used)), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(used))
    colors = [scheme.classes[i].color for i in used]
    axes.barh(place, areas.mapped[used], color=colors, edgecolor="#8a949c", linewidth=0.6, height=0.62, label="mapped")
    axes.errorbar(
        areas.estimated[used],
        place,
        xerr=areas.margin[used],
        fmt="o",
        markeredgecolor="white",
        color=INK,
        markersize=6,
        capsize=4,
        linewidth=1.3,
        label="estimated, 95 % interval",
    )
    axes.set_yticks(place, [scheme.names[i] for i in used])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("hectares")
    axes.legend(frameon=False, fontsize=8, loc="best")
    axes.spines[["top", "right"]].set_visible(False)
    quiet(axes)
    return embedded(figure)


def overview_figure(
    mapped: npt.NDArray[np.int16], reference: npt.NDArray[np.int16], scheme: ClassScheme, extent: tuple[float, ...]
) -> str:
    """The map, the reference, and where they agree, at reduced resolution.

    Args:
        mapped: Class positions `[height, width]`; negative where nothing is known.
        reference: The same for the reference.
        scheme: The classes.
        extent: xmin, xmax, ymin, ymax of the map.
    """
    agreement = np.full((*mapped.shape, 3), UNKNOWN)
    both = (mapped >= 0) & (reference >= 0)
    agreement[both & (mapped == reference)] = RIGHT
    agreement[both & (mapped != reference)] = WRONG
    height, width = mapped.shape
    panel = 3.5
    figure = Figure(figsize=(3 * panel, panel * min(height / width, 2) + 0.4), dpi=DPI, layout="constrained")
    panels = (("Map", _painted(mapped, scheme)), ("Reference", _painted(reference, scheme)), ("Agreement", agreement))
    for axes, (title, picture) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.imshow(picture, extent=extent, interpolation="nearest")
        axes.set_title(title, size=10, color=INK)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color("#c5cdd3")
    return embedded(figure)


def _painted(positions: npt.NDArray[np.int16], scheme: ClassScheme) -> npt.NDArray[np.float64]:
    palette = np.array([*(c.rgb for c in scheme.classes), (238, 240, 241)]) / 255
    painted: npt.NDArray[np.float64] = palette[np.where(positions >= 0, positions, len(scheme.classes))]
    return painted


def quiet(axes: Any) -> None:
    """Small ticks and pale frames."""
    axes.tick_params(colors=INK, labelsize=8.5, length=2)
    for spine in axes.spines.values():
        spine.set_color("#c5cdd3")


def embedded(figure: Figure) -> str:
    """A figure as a `data:` address of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
