"""A run that is cancelled or whose engine dies ends with exit code 1 and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import Place, QgisProcess

pytestmark = pytest.mark.usefixtures("steps")


@contextlib.contextmanager
def training(qgis: QgisProcess, place: Place, output: Path) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """A training that would take hours, in the midst of its epochs, and the engine's process."""
    process = qgis.start("trainclassifier", TILES=place.tiles, OUTPUT=output, EPOCHS=100_000)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "epoch" in line.lower():
                break
        (worker,) = [p for p in psutil.Process(process.pid).children() if "sparsevit.worker" in " ".join(p.cmdline())]
        yield process, worker
    finally:
        process.kill()
        process.communicate()


def processes_of_group(group: int) -> list[psutil.Process]:
    """The processes of a group that still run."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
    return members


def wait_for_end(group: int, seconds: float = 20.0) -> bool:
    """Whether a process group ends within some time."""
    deadline = time.monotonic() + seconds
    while processes_of_group(group) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not processes_of_group(group)


def test_cancel_ends_with_1_and_no_process_is_left(qgis: QgisProcess, place: Place, tmp_path: Path) -> None:
    output = tmp_path / "model.safetensors"
    output.write_bytes(b"precious")
    with training(qgis, place, output) as (process, worker):
        process.send_signal(signal.SIGINT)
        _out, err = process.communicate(timeout=180)
    assert process.returncode == 1
    assert "Cancelled" in err and "Traceback" not in err
    assert wait_for_end(worker.pid)
    assert output.read_bytes() == b"precious" and list(tmp_path.iterdir()) == [output]


def test_killed_engine_ends_with_1_and_is_named(qgis: QgisProcess, place: Place, tmp_path: Path) -> None:
    with training(qgis, place, tmp_path / "model.safetensors") as (process, worker):
        worker.kill()
        _out, err = process.communicate(timeout=180)
    assert process.returncode == 1
    assert "killed" in err and "memory" in err and "Traceback" not in err
    assert wait_for_end(worker.pid)


def test_killed_qgis_leaves_no_engine_behind(qgis: QgisProcess, place: Place, tmp_path: Path) -> None:
    with training(qgis, place, tmp_path / "model.safetensors") as (process, worker):
        process.kill()
    assert wait_for_end(worker.pid)
