"""Say whether the engine can work on this machine."""

from __future__ import annotations

import platform
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, version

from pydantic import Field

from sparsevit import __version__
from sparsevit.jobs.base import Job, Request, Result
from sparsevit.reporting import Reporter

PACKAGES = [
    "torch",
    "timm",
    "segmentation-models-pytorch",
    "lightning-fabric",
    "rasterio",
    "geopandas",
    "scikit-learn",
    "safetensors",
]
GIGABYTE = 1e9


class CheckRequest(Request):
    """Check versions, devices, memory and free disk."""

    minimum_disk_gb: float = Field(default=1.0, ge=0, description="Free disk space that the check asks for (GB).")


class Device(Result):
    """A device that can train."""

    name: str
    kind: str
    memory_gb: float
    bf16: bool


class CheckResult(Result):
    """What the engine found."""

    ok: bool
    engine: str
    python: str
    versions: dict[str, str]
    devices: list[Device]
    threads: int
    free_disk_gb: float
    problems: list[str]


def run(request: CheckRequest, reporter: Reporter) -> CheckResult:
    """Import what the jobs need, run a small network, look at disk and devices."""
    problems: list[str] = []
    devices: list[Device] = []
    threads = 0
    versions = {name: _version(name) for name in PACKAGES}
    problems += [f"The package {name} is missing." for name, found in versions.items() if not found]
    reporter.progress(0.1, "importing")
    try:
        import torch

        from sparsevit.models.hardware import available_devices
        from sparsevit.models.landcover import LandCoverModel
        from sparsevit.training.classifier import architecture_for
        from sparsevit.training.phases import ClassifierSettings
    except (ImportError, OSError, RuntimeError) as err:
        problems.append(f"The engine cannot be imported: {err}")
    else:
        reporter.progress(0.6, "running a small network")
        model = LandCoverModel(architecture_for(2, 3, 16, 10.0, ClassifierSettings())).eval()
        if not torch.isfinite(model(torch.zeros(1, 2, 16, 16))).all():
            problems.append("A small network computes no finite numbers.")
        devices = [
            Device(name=d.name, kind=d.kind, memory_gb=round(d.memory / GIGABYTE, 1), bf16=d.bf16)
            for d in available_devices()
        ]
        threads = torch.get_num_threads()
    free = shutil.disk_usage(tempfile.gettempdir()).free / GIGABYTE
    if free < request.minimum_disk_gb:
        problems.append(f"Only {free:.1f} GB are free in the temporary folder; {request.minimum_disk_gb:g} are needed.")
    for problem in problems:
        reporter.log(problem, "warning")
    reporter.progress(1.0)
    return CheckResult(
        ok=not problems,
        engine=__version__,
        python=platform.python_version(),
        versions=versions,
        devices=devices,
        threads=threads,
        free_disk_gb=round(free, 1),
        problems=problems,
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


JOB = Job("check", CheckRequest, run)
