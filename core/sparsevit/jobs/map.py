"""The whole road in one request: from tags to a land-cover map."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from sparsevit.geodata.tile_index import TilingSettings
from sparsevit.jobs.base import Job, Request, Result
from sparsevit.labels.settings import TagSettings
from sparsevit.mapping.predict import MappingSettings
from sparsevit.models.hardware import HardwareSettings
from sparsevit.reporting import Reporter
from sparsevit.training.classifier import ClassifierSettings
from sparsevit.training.loop import TrainingSettings
from sparsevit.training.refinement import RefinementSettings
from sparsevit.weak.pseudomask import PseudomaskSettings


class MapRequest(Request):
    """From tags to a land-cover map: tiles, tags, training, pseudomasks, refinement, map and report."""

    scene: list[Path] = Field(description="Rasters of the scene. The first gives the grid; the others are warped to it.")
    band_names: list[str] = Field(
        default=[], description="Names of all bands in order (B02, VV, …), where the files carry none."
    )
    scheme: Path = Field(description="Class scheme (JSON or CSV): code, name, colour of each class.")
    source: Literal["text", "fields", "vector", "raster"] = Field(
        default="text",
        description="text / fields: polygons, one per tagged place, with a field such as 'forest, water' or one boolean "
        "field per class; vector: polygons or points with a class field; raster: any categorical raster.",
    )
    layer: Path | None = Field(default=None, description="Vector layer with the tags.")
    field: str | None = Field(default=None, description="Field with the classes (text) or the class (vector).")
    raster: Path | None = Field(default=None, description="Categorical raster with the tags.")
    mapping: Path | dict[str, str | int] | None = Field(
        default=None, description="From values of the tag source to codes or names of the scheme (JSON or two-column CSV)."
    )
    classes: list[str] = Field(default=[], description="Only these classes of the scheme (names); all that occur if empty.")
    tiling: TilingSettings = TilingSettings()
    tagging: TagSettings = TagSettings()
    classifier: ClassifierSettings = ClassifierSettings()
    training: TrainingSettings = TrainingSettings()
    pseudomasks: PseudomaskSettings = PseudomaskSettings()
    refinement: RefinementSettings = RefinementSettings()
    predicting: MappingSettings = MappingSettings()
    hardware: HardwareSettings = HardwareSettings()
    reference: Path | None = Field(default=None, description="Reference for the report; held-out tags alone if left out.")
    reference_field: str | None = Field(default=None, description="Class field of a vector reference.")
    landcover: Path = Field(description="Land-cover raster to write (.tif).")
    tiles: Path = Field(description="Tile index to write (.gpkg).")
    pseudomask: Path = Field(description="Pseudomask raster to write (.tif).")
    confidence: Path = Field(description="Confidence raster of the map to write (.tif).")
    classifier_model: Path = Field(description="Classifier to write (.safetensors).")
    model: Path = Field(description="Land-cover model to write (.safetensors).")
    report: Path = Field(description="Report to write (.html).")
    report_json: Path | None = Field(default=None, description="The same numbers as JSON (.json); none if left out.")


class MapResult(Result):
    """Every output, and the numbers that tell how far to trust it."""

    landcover: str
    tiles: str
    pseudomask: str
    confidence: str
    classifier_model: str
    model: str
    report: str
    report_json: str | None
    heads_kept: int
    heads_total: int
    macro_f1: float
    mean_ap: float
    refined_weight: float
    miou: float | None
    overall_accuracy: float | None
    class_shares: dict[str, float]
    seconds: float
