"""From tags to a first map: where each tagged class is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field
from rasterio.windows import Window

from sparsevit.errors import InputError
from sparsevit.geodata.legend import NODATA, ClassScheme, parse_scheme
from sparsevit.geodata.scene import Scene, open_scene, open_scene_in_place
from sparsevit.geodata.tile_index import TileIndex, check_place, check_replaced, groups, read_tile_index
from sparsevit.geodata.writer import CAUTIONS_TAG, class_raster, float_raster, share_by_class
from sparsevit.jobs.base import Job, Request, Result, absolute
from sparsevit.labels.allowed import AllowedClasses
from sparsevit.mapping.heads import write_heads
from sparsevit.mapping.predict import MappingSettings, check_scene, edge_refiner
from sparsevit.mapping.streaming import BatchRunner, sweep
from sparsevit.models.edges import REACH, EdgeSettings
from sparsevit.models.hardware import HardwareSettings
from sparsevit.models.landcover import LandCoverModel
from sparsevit.models.model_file import ModelCard, load_model
from sparsevit.outputs import check_distinct, check_writable
from sparsevit.reporting import Reporter
from sparsevit.weak.pseudomask import PseudomaskSettings, label, tile_evidence


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
    edge: EdgeSettings = EdgeSettings()
    hardware: HardwareSettings = HardwareSettings()
    output: Path = Field(description="Class raster (.tif), or a folder for an index of patches.")
    confidence: Path | None = Field(default=None, description="Confidence raster (.tif), 0 to 1; none if left out.")
    heads: Path | None = Field(
        default=None,
        description="Raster with one band per surviving head, as `inspect` writes it (.tif); none if left out.",
    )


class PseudomaskResult(Result):
    """What was painted."""

    output: str
    confidence: str | None
    heads: str | None
    labelled_share: float
    class_shares: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Source:
    """One scene to paint: its rasters, the tiles whose tags hold there, and the rasters to write."""

    rasters: list[Path]
    index: TileIndex | None
    classes: Path
    confidence: Path | None
    heads: Path | None


def run(request: PseudomaskRequest, reporter: Reporter) -> PseudomaskResult:
    """Paint a scene, or every patch of an index."""
    started = time.monotonic()
    index = read_tile_index(request.tiles) if request.tiles else None
    model, card = load_model(request.model, "classifier")
    scheme = parse_scheme(card.scheme, str(request.model))
    if request.pseudomask.method == "clusters" and not any(card.head_mask[-1]):
        reporter.log(
            "No head of the last block survived: 'clusters' has nothing to cluster and paints one class per tile. "
            "Train with a larger 'heads_kept', or use 'evidence'.",
            "warning",
        )
    sources = _sources(request, index)
    counts = np.zeros(256, np.int64)
    for k, source in enumerate(sources):
        part = reporter.part(k / len(sources), (k + 1) / len(sources))
        names, opened = index.band_names if index else None, open_scene_in_place if request.scene else open_scene
        with opened(source.rasters, names) as scene:
            if source.index:
                check_place(source.index, scene.grid, scene.paths[0])
            counts += paint_scene(check_scene(scene, card), source, model, card, scheme, request, part)
    labelled = counts[scheme.codes].sum()
    return PseudomaskResult(
        output=absolute(request.output),
        confidence=absolute(request.confidence) if request.confidence else None,
        heads=absolute(request.heads) if request.heads else None,
        labelled_share=float(labelled / max(counts.sum(), 1)),
        class_shares=share_by_class(counts, scheme),
        seconds=round(time.monotonic() - started, 1),
    )


def _sources(request: PseudomaskRequest, index: TileIndex | None) -> list[Source]:
    files = {"output": request.output, "confidence": request.confidence, "heads": request.heads}
    if index is not None:
        check_replaced(index, request.scene)
    if index is None or index.scene:
        rasters = request.scene or (index.scene if index else [])
        if not rasters:
            raise InputError(
                "There is no scene to paint.", "scene", "Give its rasters, or a tile index that names them."
            )
        for name, path in files.items():
            if path:
                check_writable(path, (".tif", ".tiff"), name)
        check_distinct(files, rasters)
        return [Source(rasters, index, request.output, request.confidence, request.heads)]
    check_distinct(files)
    for name, folder in files.items():
        if folder is None:
            continue
        if folder.suffix:
            raise InputError(f"{folder} is a file name, but the index holds patches.", name, "Give a folder instead.")
        folder.mkdir(parents=True, exist_ok=True)
    return list(_patches(request, index))


def _patches(request: PseudomaskRequest, index: TileIndex) -> Iterator[Source]:
    for rasters, positions in groups(index):
        chosen = np.zeros(len(index), bool)
        chosen[positions] = True
        files = (f / mask_name(rasters) if f else None for f in (request.output, request.confidence, request.heads))
        classes, confidence, heads = files
        assert classes is not None
        yield Source(rasters, index.choose(chosen), classes, confidence, heads)


def mask_name(rasters: list[Path]) -> str:
    """File name of a patch's pseudomask inside its folder."""
    return f"{rasters[0].stem}.tif"


def paint_scene(
    scene: Scene,
    source: Source,
    model: LandCoverModel,
    card: ModelCard,
    scheme: ClassScheme,
    request: PseudomaskRequest,
    reporter: Reporter,
) -> npt.NDArray[np.int64]:
    """Paint one scene, row by row; returns pixel counts by code `[256]`, 255 being the ignore band."""
    area = scene.grid.window(request.extent) if request.extent else Window(0, 0, scene.grid.width, scene.grid.height)
    settings = request.pseudomask
    allowed = AllowedClasses(source.index, scheme)
    evidence = tile_evidence(model, settings, request.hardware, allowed.known)
    runner = BatchRunner(evidence, settings.pseudomask_batch, reporter)
    codes = np.array([*scheme.codes, NODATA], np.uint8)  # the last one is index -1: the ignore band
    counts = np.zeros(256, np.int64)
    side, grid = model.architecture.tile, scene.grid.crop(area)
    tags = {
        "SPARSEVIT_MODEL": request.model.name,
        "SPARSEVIT_METHOD": settings.method,
        CAUTIONS_TAG: "\n".join(card.cautions),
    }
    with ExitStack() as stack:
        classes = stack.enter_context(class_raster(source.classes, grid, scheme, tags))
        confidence = (
            stack.enter_context(float_raster(source.confidence, grid, ["Confidence"], tags))
            if source.confidence
            else None
        )
        overlap, refine = settings.pseudomask_overlap, edge_refiner(model, request.edge)
        for band in sweep(scene, area, side, overlap, len(scheme.codes), runner, reporter, refine, REACH):
            at = band.window
            window = Window(area.col_off + at.col_off, area.row_off + at.row_off, at.width, at.height)
            best, margin = label(band.evidence, allowed(window), settings.ignore_margin)
            painted = np.where(band.valid, codes[best], NODATA).astype(np.uint8)
            counts += np.bincount(painted[band.valid], minlength=256)
            classes.write_rows(band.row, painted, band.col)
            if confidence:
                confidence.write_rows(band.row, np.where(band.valid, margin, np.nan).astype(np.float32), band.col)
        if counts.sum() == 0:
            raise InputError(
                f"{scene.paths[0]} has no pixel with data.", "scene", "Check the nodata value and the extent."
            )
        if source.heads:
            mapping = MappingSettings(settings.pseudomask_overlap, settings.pseudomask_batch)
            write_heads(scene, area, model, card, scheme.names, source.heads, mapping, request.hardware, tags, reporter)
    return counts


JOB = Job("pseudomask", PseudomaskRequest, run)
