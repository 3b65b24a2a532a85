"""Map a scene with a saved model."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from pydantic import Field
from rasterio.windows import Window, intersect

from sparsevit.errors import InputError
from sparsevit.geodata.layers import read_layer
from sparsevit.geodata.legend import parse_scheme
from sparsevit.geodata.scene import open_scene
from sparsevit.geodata.writer import CAUTIONS_TAG, share_by_class
from sparsevit.jobs.base import Job, Request, Result, absolute
from sparsevit.mapping.predict import MapFiles, MappingSettings, check_scene, write_map
from sparsevit.models.edges import EdgeSettings
from sparsevit.models.hardware import HardwareSettings
from sparsevit.models.model_file import load_model
from sparsevit.outputs import check_distinct, check_writable
from sparsevit.reporting import Reporter


class PredictRequest(Request):
    """Map the land cover of a scene with any saved model."""

    model: Path = Field(description="Model file (.safetensors) written by `train` or `refine`.")
    scene: list[Path] = Field(
        description="Rasters of the scene. The first gives the grid; the others are warped to it."
    )
    band_names: list[str] = Field(
        default=[], description="Names of all bands in order (B02, VV, …), where the files carry none."
    )
    extent: tuple[float, float, float, float] | None = Field(
        default=None, description="Only inside xmin, ymin, xmax, ymax, in the CRS of the first raster."
    )
    mask: Path | None = Field(default=None, description="Polygons to map; outside them the map is nodata.")
    mapping: MappingSettings = MappingSettings()
    edge: EdgeSettings = EdgeSettings()
    hardware: HardwareSettings = HardwareSettings()
    output: Path = Field(description="Land-cover raster to write (.tif).")
    confidence: Path | None = Field(default=None, description="Confidence raster (.tif), 0 to 1; none if left out.")
    probabilities: Path | None = Field(
        default=None, description="Raster with one probability band per class (.tif); none if left out."
    )


class PredictResult(Result):
    """The map and what it shows."""

    output: str
    confidence: str | None
    probabilities: str | None
    class_shares: dict[str, float]
    megapixels: float
    megapixels_per_second: float
    seconds: float


def run(request: PredictRequest, reporter: Reporter) -> PredictResult:
    """Map a scene.

    Raises:
        InputError: Model and scene do not fit, nothing is inside the extent or mask, or the scene holds no data.
    """
    started = time.monotonic()
    files = {name: getattr(request, name) for name in ("output", "confidence", "probabilities")}
    for name, path in files.items():
        if path:
            check_writable(path, (".tif", ".tiff"), name)
    check_distinct(files, request.scene)
    model, card = load_model(request.model)
    scheme = parse_scheme(card.scheme, str(request.model))
    with open_scene(request.scene, request.band_names or None) as whole:
        scene = check_scene(whole, card)
        grid = scene.grid
        area = grid.window(request.extent) if request.extent else Window(0, 0, grid.width, grid.height)
        mask = None
        if request.mask:
            polygons = read_layer(request.mask, grid.crs.to_wkt(), "mask")
            polygons = polygons[np.isfinite(polygons.bounds).all(axis=1)]  # others lie beyond the projection
            if polygons.empty:
                raise InputError(f"{request.mask} lies outside the scene.", "mask", "Check its CRS.")
            inside = grid.window(tuple(polygons.total_bounds), "mask")
            if not intersect(area, inside):
                raise InputError(f"{request.mask} lies outside the extent.", "mask", "Change one of them.")
            area = area.intersection(inside)
            mask = list(polygons.geometry)
        counts = write_map(
            scene,
            area,
            model,
            scheme,
            request.mapping,
            request.edge,
            request.hardware,
            MapFiles(request.output, request.confidence, request.probabilities),
            {
                "SPARSEVIT_MODEL": request.model.name,
                "SPARSEVIT_TRAINING_DATA": card.training_data,
                CAUTIONS_TAG: "\n".join(card.cautions),
            },
            reporter,
            mask,
        )
    seconds = time.monotonic() - started
    megapixels = area.width * area.height / 1e6
    return PredictResult(
        output=absolute(request.output),
        confidence=absolute(request.confidence) if request.confidence else None,
        probabilities=absolute(request.probabilities) if request.probabilities else None,
        class_shares=share_by_class(counts, scheme),
        megapixels=megapixels,
        megapixels_per_second=round(megapixels / max(seconds, 1e-9), 4),
        seconds=round(seconds, 1),
    )


JOB = Job("predict", PredictRequest, run)
