"""From tags to a first map: where each tagged class is."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from sparsevit.jobs.base import Job, Request, Result
from sparsevit.models.hardware import HardwareSettings
from sparsevit.reporting import Reporter
from sparsevit.weak.pseudomask import PseudomaskSettings


class PseudomaskRequest(Request):
    """Generate pseudomasks: a class raster with an ignore band, from a trained classifier."""

    model: Path = Field(description="Classifier (.safetensors) written by `train`.")
    scene: list[Path] = Field(default=[], description="Rasters of the scene; those that the tile index names if empty.")
    tiles: Path | None = Field(
        default=None, description="Tagged tile index: inside its tagged tiles only the tagged classes are painted."
    )
    extent: tuple[float, float, float, float] | None = Field(
        default=None, description="Only inside xmin, ymin, xmax, ymax, in the CRS of the first raster."
    )
    pseudomask: PseudomaskSettings = PseudomaskSettings()
    hardware: HardwareSettings = HardwareSettings()
    output: Path = Field(description="Class raster (.tif), or a folder for an index of patches.")
    confidence: Path | None = Field(default=None, description="Confidence raster (.tif), 0 to 1; none if left out.")
    heads: Path | None = Field(
        default=None, description="Raster with one band per surviving head of the last block (.tif); none if left out."
    )


class PseudomaskResult(Result):
    """What was painted."""

    output: str
    confidence: str | None
    heads: str | None
    labelled_share: float
    class_shares: dict[str, float]
    seconds: float
