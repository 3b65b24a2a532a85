"""How close pseudomasks and maps come to the bare networks, and whether memory follows the size of the raster.

Three ratios, each against its target; `build/bench.json` holds them with the numbers behind:

* pseudomask: time of the job over the time of the classifier's forward passes over the same tiles (≤ 1.3);
* predict: throughput of the job over that of the model's forward passes over the same tiles (≥ 0.8);
* memory: growth of the peak of `predict` from a 10 Mpx to a 100 Mpx raster (< 5 %).

Networks are untrained, which changes no time. The two sides of a ratio take turns in one process, so that whatever else
the machine does hits both; the shortest time of each counts.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.transform import from_origin
from rasterio.windows import Window
from torch import Tensor

from sparsevit.geodata.legend import load_scheme
from sparsevit.geodata.scene import open_scene
from sparsevit.jobs import get_job
from sparsevit.mapping.predict import MappingSettings
from sparsevit.mapping.streaming import starts
from sparsevit.models.hardware import HardwareSettings, autocast, resolve_device
from sparsevit.models.landcover import Architecture, LandCoverModel
from sparsevit.models.model_file import ModelCard, save_model
from sparsevit.reporting import Reporter
from sparsevit.training.classifier import architecture_for
from sparsevit.training.head_budget import heads_to_keep, random_mask
from sparsevit.training.phases import ClassifierSettings

REPOSITORY = Path(__file__).resolve().parents[1]
SCENE = [REPOSITORY / "resources" / "sample" / "virginia" / name for name in ("s2_10m.tif", "s2_20m.tif")]
SCHEME = load_scheme(REPOSITORY / "resources" / "schemes" / "dfc2020.json")
TILE, GSD = 64, 10.0
HEADS_KEPT = 0.3  # as published; what trials find differs from scene to scene
SMALL_BANDS = ["B02", "B03", "B04", "B08", "B11", "B12"]  # enough that 10 Mpx fill the cache of raster blocks
SMALL_CLASSES = [1, 6, 10]
BLOCK = 512


@dataclass(frozen=True)
class Line:
    """One line of the table: a ratio, its target, and the two numbers behind it."""

    name: str
    value: float
    target: str
    met: bool
    job: float
    bare: float
    unit: str


# --- models -----------------------------------------------------------------------------------------------------------


def pruned_model(bands: int, encoder: str) -> tuple[LandCoverModel, list[list[bool]]]:
    """The default classifier with a share of its heads; with a U-Net if an encoder is named."""
    torch.manual_seed(0)
    architecture = architecture_for(bands, len(SCHEME.classes), TILE, GSD, ClassifierSettings())
    if encoder:
        weights = {"vit": 0.25, "spectral": 0.25, "unet": 0.5}
        architecture = replace(architecture, encoder=encoder, weights=weights)
    model = LandCoverModel(architecture)
    assert model.vit is not None
    heads = model.vit.heads
    mask = random_mask(heads, heads_to_keep(HEADS_KEPT, sum(heads)), seed=0)
    model.vit.prune(mask)
    model.architecture = replace(architecture, vit=model.vit.config)
    return model.eval(), [m.tolist() for m in mask]


def write_model(path: Path, model: LandCoverModel, kind: Any, bands: list[str], mask: list[list[bool]]) -> Path:
    """The model as a file, with a scheme of as many classes as it has."""
    scheme = SCHEME.subset(SCHEME.codes[: model.architecture.classes])
    save_model(path, model, ModelCard(kind, model.architecture, bands, GSD, scheme.to_json(), 0.1, mask, "none"))
    return path


# --- speed ------------------------------------------------------------------------------------------------------------


def tiles_of(area: tuple[int, int], overlap: float) -> Tensor:
    """The raw tiles that a job evaluates in the upper left corner of the scene, read beforehand."""
    height, width = area
    stride = round(TILE * (1 - overlap))
    with open_scene(SCENE) as scene:
        corners = [(r, c) for r in starts(height, TILE, stride) for c in starts(width, TILE, stride)]
        return torch.from_numpy(np.stack([scene.read(Window(c, r, TILE, TILE))[0] for r, c in corners]))


def bare(model: LandCoverModel, tiles: Tensor, batch: int) -> Callable[[], None]:
    """Nothing but the forward passes, on the device and in the precision that the jobs choose."""
    hardware = HardwareSettings()
    device = resolve_device(hardware)
    model = model.to(device)

    def run() -> None:
        with torch.inference_mode(), autocast(hardware, device):
            for part in tiles.split(batch):
                model(part.to(device)).cpu()

    return run


def fastest(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The shortest time of each (s), taking turns."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def measure_speed(folder: Path, quick: bool) -> list[Line]:
    """Pseudomask and predict against their forward passes on the sample scene."""
    with open_scene(SCENE) as scene:
        names, left, top = scene.names, *scene.grid.transform @ (0, 0)
    side = 384 if quick else 768
    extent = [left, top - side * GSD, left + side * GSD, top]
    settings = MappingSettings()
    tiles = tiles_of((side, side), settings.overlap)
    classifier, mask = pruned_model(len(names), "")
    landcover, _ = pruned_model(len(names), "resnet18")
    classifier_file = write_model(folder / "classifier.safetensors", classifier, "classifier", names, mask)
    landcover_file = write_model(folder / "landcover.safetensors", landcover, "landcover", names, mask)
    common = {"scene": [str(p) for p in SCENE], "extent": extent, "output": str(folder / "out.tif")}
    batch = settings.predict_batch
    times = fastest(
        {
            "classifier": bare(classifier, tiles, batch),
            "pseudomask": lambda: do("pseudomask", model=str(classifier_file), **common),
            "model": bare(landcover, tiles, batch),
            "predict": lambda: do("predict", model=str(landcover_file), **common),
        },
        3 if quick else 5,
    )
    cost = times["pseudomask"] / times["classifier"]
    throughput = times["model"] / times["predict"]
    return [
        Line(
            "pseudomask time / forward passes",
            cost,
            "≤ 1.3",
            cost <= 1.3,
            times["pseudomask"],
            times["classifier"],
            "s",
        ),
        Line(
            "predict / forward pass throughput",
            throughput,
            "≥ 0.8",
            throughput >= 0.8,
            times["predict"],
            times["model"],
            "s",
        ),
    ]


def do(job: str, **params: Any) -> None:
    """Run a job."""
    get_job(job).execute(params, Reporter())


# --- memory -----------------------------------------------------------------------------------------------------------


def write_large(path: Path, side: int) -> Path:
    """A tiled raster of a few bands, written block by block."""
    noise = np.random.default_rng(0).integers(0, 32, (len(SMALL_BANDS), BLOCK, BLOCK)).astype(np.uint16)
    profile = {"driver": "GTiff", "width": side, "height": side, "count": len(SMALL_BANDS), "dtype": "uint16"}
    profile |= {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "zstd", "nodata": 65535}
    with rasterio.open(path, "w", crs="EPSG:32618", transform=from_origin(500000, 4100000, GSD, GSD), **profile) as out:
        for k, name in enumerate(SMALL_BANDS, start=1):
            out.set_band_description(k, name)
        for _, window in out.block_windows():
            out.write(noise[:, : window.height, : window.width], window=window)
    return path


def peak_memory(model: Path, raster: Path, output: Path) -> float:
    """Peak of the resident memory of a process that maps a raster (MB)."""
    command = [sys.executable, __file__, "--child", str(model), str(raster), str(output)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def child(model: str, raster: str, output: str) -> None:
    """Map a raster and print the peak of this process's memory."""
    do("predict", model=model, scene=[raster], output=output, overlap=0.25)
    print(own_peak())


def own_peak() -> float:
    """Peak of the resident memory of this process (MB)."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss of Linux counts the parent too, from which this process was forked
        line = next(row for row in status.read_text("utf-8").splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def measure_memory(folder: Path, quick: bool) -> list[Line]:
    """Growth of the peak from a raster to one of ten times its size, with a network that takes no time."""
    torch.manual_seed(0)
    model = LandCoverModel(Architecture(len(SMALL_BANDS), len(SMALL_CLASSES), TILE, None, 4, "", {"spectral": 1.0}))
    file = write_model(folder / "small.safetensors", model, "landcover", SMALL_BANDS, [])
    sides = (1000, 3163) if quick else (3163, 10000)
    peaks = []
    for side in sides:
        raster, output = write_large(folder / f"{side}.tif", side), folder / "map.tif"
        peaks.append(peak_memory(file, raster, output))
        raster.unlink()
    growth = peaks[1] / peaks[0] - 1
    small, large = (f"{s * s / 1e6:.0f}" for s in sides)
    name = f"peak memory growth, {small} to {large} Mpx"
    return [Line(name, growth, "< 0.05", growth < 0.05, peaks[1], peaks[0], "MB")]


# --- the table --------------------------------------------------------------------------------------------------------


def show(lines: list[Line]) -> None:
    """Print the table."""
    print(f"{'':36}{'ratio':>8}{'target':>9}{'':7}{'job':>10}{'bare':>10}")
    for line in lines:
        met = "ok" if line.met else "missed"
        print(f"{line.name:36}{line.value:8.3f}{line.target:>9} {met:6}{line.job:10.2f}{line.bare:10.2f} {line.unit}")


def main() -> None:
    """Measure, print and write `build/bench.json`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller rasters and fewer repeats")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "build" / "bench.json", help="JSON to write")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        lines = [*measure_speed(Path(folder), arguments.quick), *measure_memory(Path(folder), arguments.quick)]
    show(lines)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "quick": arguments.quick,
        "threads": torch.get_num_threads(),
        "device": str(resolve_device(HardwareSettings())),
    }
    arguments.output.write_text(json.dumps({**facts, "lines": [asdict(line) for line in lines]}, indent=2), "utf-8")


if __name__ == "__main__":
    main()
