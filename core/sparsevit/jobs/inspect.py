"""Show what each surviving attention head looks at."""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import Field
from rasterio.windows import Window

from sparsevit.errors import InputError
from sparsevit.geodata.legend import parse_scheme
from sparsevit.geodata.scene import open_scene
from sparsevit.jobs.base import Job, Request, Result, absolute
from sparsevit.mapping.heads import write_heads
from sparsevit.mapping.predict import MappingSettings, check_scene
from sparsevit.models.hardware import HardwareSettings
from sparsevit.models.model_file import load_model
from sparsevit.outputs import check_distinct, check_writable
from sparsevit.reporting import Reporter


class InspectRequest(Request):
    """Show what each surviving attention head of a model looks at, as one raster band per head."""

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
    mapping: MappingSettings = MappingSettings()
    hardware: HardwareSettings = HardwareSettings()
    output: Path = Field(
        description="Raster to write (.tif), one band per head: attention of the class token; 1 is the mean of a tile."
    )


class InspectedHead(Result):
    """One surviving head: its place, its gate, and how its map correlates with the probability of each class."""

    name: str
    block: int
    head: int
    gate: float | None
    correlation: dict[str, float]


class InspectResult(Result):
    """The heads in the order of the raster's bands."""

    output: str
    heads: list[InspectedHead]
    seconds: float


def run(request: InspectRequest, reporter: Reporter) -> InspectResult:
    """Write the heads of a model over a scene."""
    started = time.monotonic()
    check_writable(request.output, (".tif", ".tiff"))
    check_distinct({"output": request.output}, request.scene)
    model, card = load_model(request.model)
    if model.vit is None or card.heads_kept == 0:
        raise InputError(f"{request.model} has no attention heads.", "model", "Choose one written by 'train'.")
    with open_scene(request.scene, request.band_names or None) as whole:
        scene = check_scene(whole, card)
        grid = scene.grid
        area = grid.window(request.extent) if request.extent else Window(0, 0, grid.width, grid.height)
        heads = write_heads(
            scene,
            area,
            model,
            card,
            parse_scheme(card.scheme, str(request.model)).names,
            request.output,
            request.mapping,
            request.hardware,
            {"SPARSEVIT_MODEL": request.model.name},
            reporter,
        )
    for head in heads:
        reporter.log(head.name)
    return InspectResult(
        output=absolute(request.output),
        heads=[InspectedHead(name=head.name, **vars(head)) for head in heads],
        seconds=round(time.monotonic() - started, 1),
    )


JOB = Job("inspect", InspectRequest, run)
