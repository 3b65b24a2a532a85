"""Map a scene with a saved model."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from sparsevit.jobs.base import Job, Request, Result
from sparsevit.mapping.predict import MappingSettings
from sparsevit.models.hardware import HardwareSettings
from sparsevit.reporting import Reporter


class PredictRequest(Request):
    """Map the land cover of a scene with any saved model."""

    model: Path = Field(description="Model file (.safetensors) written by `train` or `refine`.")
    scene: list[Path] = Field(description="Rasters of the scene. The first gives the grid; the others are warped to it.")
    band_names: list[str] = Field(
        default=[], description="Names of all bands in order (B02, VV, …), where the files carry none."
    )
    extent: tuple[float, float, float, float] | None = Field(
        default=None, description="Only inside xmin, ymin, xmax, ymax, in the CRS of the first raster."
    )
    mask: Path | None = Field(default=None, description="Polygons to map; outside them the map is nodata.")
    mapping: MappingSettings = MappingSettings()
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
