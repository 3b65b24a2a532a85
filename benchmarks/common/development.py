"""The development scene `virginia`, and what all benchmarks on it share."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import rasterio

from sparsevit.jobs import get_job
from sparsevit.jobs.base import Result
from sparsevit.reporting import Reporter

ROOT = Path(__file__).resolve().parents[2]
SCHEME = ROOT / "resources/schemes/dfc2020.json"
CHOSEN_ON = "0, 3 and 8"
"""Split seeds on whose blocks settings were chosen."""
NORTH_ROWS = 1024
"""Rows of the northern half, on which methods are developed."""


def job(name: str, **params: object) -> Result:
    """Run a job of the engine."""
    return get_job(name).execute(params, Reporter())


def scene_of(data: Path) -> list[Path]:
    """The rasters of the scene in its folder."""
    return [data / "s2_l1c_10m.tif", data / "s2_l1c_20m.tif"]


def reference_of(data: Path) -> Path:
    """The reference of the northern half."""
    return data / "label_dfc_north.tif"


def north_of(data: Path) -> tuple[float, float, float, float]:
    """Extent of the northern half: xmin, ymin, xmax, ymax."""
    with rasterio.open(scene_of(data)[0]) as src:
        t = src.transform
        return (t.c, t.f + NORTH_ROWS * t.e, t.c + src.width * t.a, t.f)


def tagged_tiles(data: Path, output: Path, **tiling: Any) -> None:
    """Tiles of the northern half with the tags of its reference."""
    job("tiles", scene=scene_of(data), extent=north_of(data), output=output, **tiling)
    job("tag", tiles=output, scheme=SCHEME, source="raster", raster=reference_of(data))


def options_of(description: str | None, output: Path) -> argparse.ArgumentParser:
    """The options that all benchmarks on the scene have.

    Args:
        description: What the benchmark does.
        output: Where its results go unless told otherwise.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=_folder, default=str(ROOT.parent / "shared/data/virginia"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=output)
    parser.add_argument("--publish", type=Path, nargs="+", help="only write the documentation from these results")
    return parser


def _folder(text: str) -> Path:
    path = Path(text).resolve()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} does not exist: the benchmark needs the development scene")
    return path


def save(results: object, output: Path) -> None:
    """Write results, also those of an unfinished run."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1), encoding="utf-8")


def load(paths: list[Path]) -> list[dict[str, Any]]:
    """Results that `save` wrote."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def log_to_terminal() -> None:
    """Show what the engine reports."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
