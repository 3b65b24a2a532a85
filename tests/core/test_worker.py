"""The worker as the plugin sees it: a real process that speaks JSON lines on stdin and stdout."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from small_models import CUTTING, SCHEME, TRAINING, write_place, write_tiny_model
from small_rasters import scheme, write_raster

from sparsevit import __version__

PATIENCE = 120
"""Seconds after which a silent worker counts as stuck."""

NOISY = """
import os, sys
from sparsevit import jobs
from sparsevit.worker import main
real = jobs.get_job
def noisy(name):
    print("a library prints")
    os.write(1, b"a C library prints\\n")
    os.system("echo a child prints")
    return real(name)
import sparsevit.worker
sparsevit.worker.get_job = noisy
main()
"""


class Process:
    """A worker, and the lines that it sends."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *(command or ("-m", "sparsevit.worker"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            bufsize=1,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.noise: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        self._drained = threading.Thread(target=self._drain, daemon=True)
        self._drained.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def _drain(self) -> None:
        assert self.process.stderr is not None
        self.noise.extend(self.process.stderr)

    def send(self, line: str | dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write((line if isinstance(line, str) else json.dumps(line)) + "\n")
        self.process.stdin.flush()

    def message(self) -> dict[str, Any] | None:
        """The next line, which must be JSON; None when stdout has ended."""
        line = self.lines.get(timeout=PATIENCE)
        return None if line is None else json.loads(line)

    def until(self, *events: str) -> list[dict[str, Any]]:
        """Messages up to the first of some kind."""
        got: list[dict[str, Any]] = []
        while not got or got[-1]["event"] not in events:
            message = self.message()
            assert message is not None, f"the worker ended: {''.join(self.noise)}"
            got.append(message)
        return got

    def ended(self) -> tuple[int, str]:
        """Close stdin, and wait for the exit code and everything on stderr."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        code = self.process.wait(PATIENCE)
        self._drained.join(PATIENCE)
        return code, "".join(self.noise)

    def ask(self, job_id: str, job: str, **params: Any) -> list[dict[str, Any]]:
        """A job's messages up to its answer."""
        self.send({"id": job_id, "job": job, "params": params})
        return self.until("result", "error")


@contextmanager
def started(*command: str) -> Iterator[Process]:
    worker = Process(*command)
    try:
        assert worker.message() == {"event": "ready", "version": __version__, "pid": worker.process.pid}
        yield worker
    finally:
        worker.process.kill()
        worker.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def worker() -> Iterator[Process]:
    with started() as process:
        yield process


def test_a_job_answers_with_progress_and_a_result(worker: Process) -> None:
    messages = worker.ask("one", "check")
    assert {m["id"] for m in messages} == {"one"}
    result = messages[-1]
    assert result["event"] == "result" and result["result"]["engine"] == __version__
    fractions = [m["progress"] for m in messages if m["event"] == "progress"]
    assert fractions == sorted(fractions) and fractions[-1] == 1


def test_jobs_are_answered_one_after_another_in_order(worker: Process) -> None:
    for job_id in ("a", "b", "c"):
        worker.send({"id": job_id, "job": "check", "params": {}})
    answers = [worker.until("result", "error") for _ in range(3)]
    assert [{m["id"] for m in messages} for messages in answers] == [{"a"}, {"b"}, {"c"}]


def test_numbers_as_ids_come_back_as_text(worker: Process) -> None:
    worker.send({"id": 7, "job": "check", "params": {}})
    assert worker.until("result")[-1]["id"] == "7"


@pytest.mark.parametrize(
    ("job", "params", "parameter"),
    [
        ("check", {"minimum_disk_gb": -1}, "minimum_disk_gb"),
        ("check", {"colour": "red"}, "colour"),
        ("train", {"tiles": "t.gpkg"}, "output"),
        ("predict", {"model": "nowhere.safetensors", "scene": ["a.tif"], "output": "b.tif"}, "model"),
        ("knit", {}, "job"),
    ],
)
def test_wrong_input_is_an_error_that_names_the_parameter(
    worker: Process, job: str, params: dict[str, Any], parameter: str
) -> None:
    error = worker.ask("bad", job, **params)[-1]
    assert (error["event"], error["id"], error["kind"], error["parameter"]) == ("error", "bad", "input", parameter)
    assert error["message"] and "Traceback" not in error["message"]


@pytest.mark.parametrize("line", ["{", "[]", "42", '"text"', "{}", '{"job": "check"}', "null"])
def test_a_malformed_line_is_answered_and_the_worker_goes_on(worker: Process, line: str) -> None:
    worker.send(line)
    error = worker.until("error")[-1]
    assert (error["id"], error["kind"]) == (None, "input")
    assert worker.ask("next", "check")[-1]["event"] == "result"


@pytest.mark.parametrize("params", [None, [], [1], "text", 5])
def test_parameters_of_another_shape_are_answered(worker: Process, params: Any) -> None:
    worker.send({"id": "odd", "job": "train", "params": params})
    error = worker.until("error")[-1]
    assert (error["id"], error["kind"]) == ("odd", "input")


def test_an_empty_line_means_nothing(worker: Process) -> None:
    worker.send("")
    assert worker.ask("after", "check")[-1]["event"] == "result"


def test_a_cancelled_job_says_so_and_the_next_one_runs(worker: Process, tmp_path: Path) -> None:
    scene, classes = write_place(tmp_path)
    tiles = str(tmp_path / "tiles.gpkg")
    assert worker.ask("t", "tiles", scene=[str(scene)], output=tiles, **CUTTING)[-1]["event"] == "result"
    tags = {"scheme": str(SCHEME), "source": "raster", "raster": str(classes)}
    assert worker.ask("g", "tag", tiles=tiles, **tags)[-1]["event"] == "result"
    target = tmp_path / "model.safetensors"
    params = {"tiles": tiles, "output": str(target), **TRAINING, "epochs": 100_000}
    worker.send({"id": "long", "job": "train", "params": params})
    worker.until("metric")
    worker.send({"id": "long", "cancel": True})
    error = worker.until("error", "result")[-1]
    assert (error["event"], error["id"], error["kind"]) == ("error", "long", "cancelled")
    assert not target.exists()
    assert worker.ask("next", "check")[-1]["event"] == "result"


def test_cancelling_a_job_that_is_still_waiting_stops_it_too(worker: Process, tmp_path: Path) -> None:
    values = np.ones((2, 300, 300), np.float32)
    scene = write_raster(tmp_path / "scene.tif", values, names=["B04", "B08"])
    model = write_tiny_model(tmp_path / "m.safetensors", scheme().subset([1, 6, 10]).to_json(), ["B04", "B08"])
    target = tmp_path / "map.tif"
    params = {"model": str(model), "scene": [str(scene)], "output": str(target), "device": "cpu"}
    worker.send({"id": "first", "job": "check", "params": {}})
    worker.send({"id": "second", "job": "predict", "params": params})
    worker.send({"id": "second", "cancel": True})
    assert worker.until("result", "error")[-1]["id"] == "first"
    assert worker.until("result", "error")[-1]["kind"] == "cancelled"
    assert not target.exists()


def test_infinite_numbers_become_null(worker: Process, tmp_path: Path) -> None:
    _, classes = write_place(tmp_path, side=48)
    forest = tmp_path / "forest.tif"
    with rasterio.open(classes) as src:
        profile, values = src.profile, src.read()
    values[:] = 1
    with rasterio.open(forest, "w", **profile) as out:
        out.write(values)
    report = tmp_path / "report.html"
    params = {"map": str(forest), "reference": str(classes), "scheme": str(SCHEME), "output": str(report)}
    messages = worker.ask("nan", "assess", **params)
    assert messages[-1]["event"] == "result", messages[-1]
    assert None in messages[-1]["result"]["iou"].values()  # classes that neither has


def test_what_libraries_print_does_not_reach_the_protocol() -> None:
    with started("-c", NOISY) as worker:
        assert worker.ask("one", "check")[-1]["event"] == "result"
        _, text = worker.ended()
        for line in ("a library prints", "a C library prints", "a child prints"):
            assert line in text


def test_closing_stdin_ends_an_idle_worker() -> None:
    with started() as worker:
        assert worker.ended()[0] == 0
        assert worker.message() is None


def test_closing_stdin_ends_a_worker_in_the_middle_of_a_job(tmp_path: Path) -> None:
    values = np.ones((2, 4000, 4000), np.uint8)
    scene = write_raster(tmp_path / "scene.tif", values, names=["B04", "B08"], compress="deflate")
    model = write_tiny_model(tmp_path / "m.safetensors", scheme().subset([1, 6, 10]).to_json(), ["B04", "B08"])
    with started() as worker:
        params = {"model": str(model), "scene": [str(scene)], "output": str(tmp_path / "map.tif"), "device": "cpu"}
        worker.send({"id": "long", "job": "predict", "params": params})
        worker.until("progress")
        assert worker.ended()[0] != 0
        assert not (tmp_path / "map.tif").exists()


def test_a_fault_of_the_engine_ends_the_worker_with_a_traceback_on_stderr() -> None:
    broken = NOISY.replace("return real(name)", "raise AssertionError('a fault')")
    with started("-c", broken) as worker:
        worker.send({"id": "one", "job": "check", "params": {}})
        assert worker.message() is None
        code, text = worker.ended()
        assert code != 0 and "AssertionError: a fault" in text
