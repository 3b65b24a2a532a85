"""Train a segmentation network on the pseudomasks, in rounds."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from sparsevit.jobs.base import Job, Request, Result
from sparsevit.models.hardware import HardwareSettings
from sparsevit.reporting import Reporter
from sparsevit.training.loop import TrainingSettings
from sparsevit.training.refinement import RefinementSettings


class RefineRequest(Request):
    """Train a segmentation network on the pseudomasks, in rounds, guarded by held-out tags."""

    tiles: Path = Field(description="Tagged tile index (.gpkg) that the classifier was trained on.")
    classifier: Path = Field(description="Classifier (.safetensors) behind the pseudomasks; the guard compares with it.")
    pseudomask: Path = Field(description="Class raster written by `pseudomask` (or its folder for an index of patches).")
    scene: list[Path] = Field(default=[], description="Rasters to read instead of those that the tile index names.")
    refinement: RefinementSettings = RefinementSettings()
    training: TrainingSettings = TrainingSettings()
    hardware: HardwareSettings = HardwareSettings()
    output: Path = Field(description="Model file to write (.safetensors).")


class RefineRound(Result):
    """One round of refinement."""

    round: int
    changed: float
    tag_loss: float
    accepted: bool


class RefineResult(Result):
    """The refined model and what each round did."""

    output: str
    evidence_tag_loss: float
    tag_loss: float
    refined_weight: float
    rounds: list[RefineRound]
    decision: str
    seconds: float
