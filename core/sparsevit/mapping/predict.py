"""From a model and a scene to a land-cover map."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass as plain_dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from rasterio.features import geometry_mask
from rasterio.windows import Window
from torch import Tensor

from sparsevit.errors import InputError
from sparsevit.geodata.legend import NODATA, ClassScheme
from sparsevit.geodata.scene import BoolArray, FloatArray, Grid, Scene
from sparsevit.geodata.writer import RasterWriter, class_raster, float_raster
from sparsevit.mapping.streaming import BatchRunner, Evaluate, RowBand, sweep
from sparsevit.models.edges import REACH, EdgeSettings, sharpen
from sparsevit.models.hardware import HardwareSettings, autocast, resolve_device
from sparsevit.models.landcover import LandCoverModel
from sparsevit.models.model_file import ModelCard
from sparsevit.reporting import Reporter
from sparsevit.settings import STRICT

UNLIKE = 1e3
"""Normalised value of nodata for the edges: like no spectrum, so that nothing leaks across its border."""


@dataclass(frozen=True, config=STRICT)
class MappingSettings:
    """How a scene is mapped."""

    overlap: float = Field(default=0.5, ge=0, le=0.75, description="Overlap of neighbouring tiles (share of a tile).")
    predict_batch: int = Field(
        default=32, ge=1, description="Tiles per forward pass; halved by itself when the device runs out of memory."
    )
    cog: bool = Field(default=False, description="Write a Cloud-Optimised GeoTIFF.")


@plain_dataclass(frozen=True)
class MapFiles:
    """Rasters to write; those left out are not written."""

    classes: Path
    confidence: Path | None = None
    probabilities: Path | None = None


def check_scene(scene: Scene, card: ModelCard) -> Scene:
    """The bands of a scene that a model needs, in its order.

    Raises:
        InputError: A band is missing, or the ground sampling distance is not that of the model.
    """
    chosen = scene.select(card.bands, "The model")
    card.check_gsd(scene.grid.gsd, f"The scene {scene.paths[0].name}", "scene")
    return chosen


def probabilities(
    model: LandCoverModel, hardware: HardwareSettings, weights: dict[str, float] | None = None
) -> Evaluate:
    """Evaluate tiles by a model: raw tiles `[B, C, H, W]` to class probabilities `[B, K, H, W]`."""
    device = resolve_device(hardware)
    model = model.to(device).eval()

    def evaluate(tiles: Tensor, _: list[Window]) -> Tensor:
        with torch.inference_mode(), autocast(hardware, device):
            log_probabilities: Tensor = model(tiles.to(device), weights)
            return log_probabilities.exp()

    return evaluate


def edge_refiner(model: LandCoverModel, edges: EdgeSettings) -> Callable[[FloatArray, FloatArray], FloatArray]:
    """Refine evidence `[K, H, W]` by raw bands `[C, H, W]`, normalised as the model does."""

    def refine(evidence: FloatArray, values: FloatArray) -> FloatArray:
        raw = torch.from_numpy(values)[None].to(model.mean.device)
        bands = model.normalise(raw)
        nodata = ~torch.isfinite(raw).any(dim=1, keepdim=True)
        return sharpen(evidence, bands.masked_fill(nodata, UNLIKE), edges)

    return refine


def confidence_of(evidence: FloatArray) -> FloatArray:
    """Margin between the best two classes `[H, W]`, 0–1, of probabilities `[K, H, W]`."""
    if len(evidence) == 1:
        return np.ones(evidence.shape[1:], np.float32)
    best = np.partition(evidence, -2, axis=0)[-2:]
    margin: FloatArray = np.clip(best[1] - best[0], 0, 1)
    return margin


def write_map(
    scene: Scene,
    area: Window,
    model: LandCoverModel,
    scheme: ClassScheme,
    settings: MappingSettings,
    edges: EdgeSettings,
    hardware: HardwareSettings,
    files: MapFiles,
    provenance: dict[str, str],
    reporter: Reporter,
    mask: list[shapely.Geometry] | None = None,
) -> npt.NDArray[np.int64]:
    """Map an area of a scene into rasters, row by row.

    Args:
        scene: Exactly the bands of the model.
        area: Window of the scene to map.
        model: Any model.
        scheme: Its classes.
        settings: Overlap, batch, format.
        edges: How borders follow the spectra.
        hardware: Device and precision.
        files: Rasters to write.
        provenance: Tags of the rasters.
        reporter: Progress.
        mask: Polygons in the CRS of the scene; outside them the map is nodata.

    Returns:
        Number of pixels by code `[256]`.
    """
    grid = scene.grid.crop(area)
    runner = BatchRunner(probabilities(model, hardware), settings.predict_batch, reporter)
    codes = np.array(scheme.codes, np.uint8)
    counts = np.zeros(256, np.int64)
    with ExitStack() as stack:
        classes = stack.enter_context(class_raster(files.classes, grid, scheme, provenance, settings.cog))
        confidence = _optional(stack, files.confidence, grid, ["Confidence"], provenance, settings.cog)
        shares = _optional(stack, files.probabilities, grid, scheme.names, provenance, settings.cog)
        side = model.architecture.tile
        refine = edge_refiner(model, edges)
        for band in sweep(scene, area, side, settings.overlap, len(codes), runner, reporter, refine, REACH):
            keep = band.valid if mask is None else band.valid & inside(mask, grid, band)
            labels = np.where(keep, codes[band.evidence.argmax(axis=0)], NODATA)
            counts += np.bincount(labels.ravel(), minlength=256)
            classes.write_rows(band.row, labels.astype(np.uint8), band.col)
            if confidence:
                confidence.write_rows(band.row, np.where(keep, confidence_of(band.evidence), np.nan), band.col)
            if shares:
                shares.write_rows(band.row, np.where(keep, band.evidence, np.nan), band.col)
        check_any_data(counts, scene, masked=mask is not None)
    return counts


def check_any_data(counts: npt.NDArray[np.int64], scene: Scene, masked: bool) -> None:
    """Refuse an empty map, before it takes its final name.

    Args:
        counts: Pixels by code `[256]`.
        scene: The scene that was mapped.
        masked: Whether only inside a mask.

    Raises:
        InputError: Every pixel is nodata.
    """
    if counts[:NODATA].sum() == 0 and masked:
        raise InputError("No pixel with data has its centre inside the mask.", "mask", "Check the polygons.")
    if counts[:NODATA].sum() == 0:
        raise InputError(
            f"The area has no pixel with data in every raster of the scene ({scene.paths[0].name}, …).",
            "scene",
            "Check the nodata value, the extent, and that the rasters show the same place.",
        )


def _optional(
    stack: ExitStack, path: Path | None, grid: Grid, names: list[str], tags: dict[str, str], cog: bool
) -> RasterWriter | None:
    return stack.enter_context(float_raster(path, grid, names, tags, cog)) if path else None


def inside(mask: list[shapely.Geometry], grid: Grid, band: RowBand) -> BoolArray:
    """Which pixels of a band lie in one of the polygons `[rows, width]`."""
    transform = grid.crop(band.window).transform
    covered: BoolArray = geometry_mask(mask, band.valid.shape, transform, invert=True)
    return covered
