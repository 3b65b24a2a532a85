"""The command line: help that names everything, job files, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_models import CUTTING, SCHEME, write_place
from typer.testing import CliRunner

from sparsevit import __version__
from sparsevit.cli import build
from sparsevit.jobs import JOBS, get_job


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The real program."""
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sparsevit.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.parametrize("name", JOBS)
def test_help_of_every_job_names_every_option(name: str) -> None:
    result = CliRunner().invoke(build([name]), [*name.split(), "--help"], env={"COLUMNS": "300", "NO_COLOR": "1"})
    assert result.exit_code == 0, result.output
    for _, leaf, _ in get_job(name).request.leaves():
        assert f"--{leaf.replace('_', '-')}" in result.output, leaf


def test_help_lists_the_jobs_without_importing_them() -> None:
    done = call("--help")
    assert done.returncode == 0
    for name in (*JOBS, "run"):
        assert name.split()[0] in done.stdout
    assert "heads" in call("study", "--help").stdout
    script = "import sys, sparsevit.cli; sparsevit.cli.build([]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=300).returncode == 0


def test_version() -> None:
    assert call("--version").stdout.strip() == __version__


def test_a_job_prints_its_result_as_json_and_nothing_else(tmp_path: Path) -> None:
    scene, _ = write_place(tmp_path)
    target = tmp_path / "tiles.gpkg"
    done = call("tiles", "--scene", str(scene), "--output", str(target), "--tile-size-m", "160", "--gap-m", "0")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["output"] == str(target)
    assert target.exists()


def test_a_job_file_does_the_same(tmp_path: Path) -> None:
    scene, _ = write_place(tmp_path)
    target = tmp_path / "tiles.gpkg"
    file = tmp_path / "job.json"
    params = {"scene": [str(scene)], "output": str(target), **CUTTING}
    file.write_text(json.dumps({"job": "tiles", "params": params}), "utf-8")
    done = call("run", str(file))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tiles"] == 49 and target.exists()


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"job": "tiles"}', '{"job": "knit", "params": {}}', '{"job": "tiles", "params": 3}']
)
def test_a_file_that_is_no_job_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "job.json"
    file.write_text(text, "utf-8")
    result = CliRunner().invoke(build([]), ["run", str(file)])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)


def test_wrong_input_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    done = call("tiles", "--scene", str(tmp_path / "nowhere.tif"), "--output", str(tmp_path / "t.gpkg"))
    assert done.returncode == 1
    assert "nowhere.tif" in done.stderr.replace("\n", "") and "Traceback" not in done.stderr
    assert not done.stdout and not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["train"], ["train", "--epochs", "many"], ["tiles", "--knit"], ["knit"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(build(arguments[:1] if arguments[0] in JOBS else []), arguments)
    assert result.exit_code == 2


def test_what_is_done_by_default_can_be_switched_off() -> None:
    options = ["tag", "--tiles", "nowhere.gpkg", "--scheme", "nowhere.json", "--source", "text"]
    for switch in ("--no-complete", "--complete"):
        result = CliRunner().invoke(build(["tag"]), [*options, switch])
        assert result.exit_code == 1  # the files are missing, the option is known
    assert "--no-review" in CliRunner().invoke(build(["map"]), ["map", "--help"], env={"COLUMNS": "300"}).output


def test_a_cluster_that_ends_a_job_is_answered_as_a_terminal(tmp_path: Path) -> None:
    """With one sentence, and nothing half written."""
    scene, classes = write_place(tmp_path)
    files = {"--landcover": "l.tif", "--tiles": "t.gpkg", "--pseudomask": "p.tif", "--confidence": "c.tif"}
    files |= {"--classifier-model": "c.safetensors", "--model": "m.safetensors"}
    command = [sys.executable, "-m", "sparsevit.cli", "map", "--scene", str(scene), "--scheme", str(SCHEME)]
    command += ["--source", "raster", "--raster", str(classes), "--tile-size-m", "160", "--gap-m", "0"]
    command += [part for option, name in files.items() for part in (option, str(tmp_path / name))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "t.gpkg").exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.terminate()
        _, said = process.communicate(timeout=120)
    assert process.returncode == 1 and "Cancelled." in said
    assert {path.name for path in tmp_path.iterdir()} == {"scene.tif", "classes.tif", "t.gpkg"}


def test_check_passes_on_a_machine_that_can_work_and_fails_where_it_cannot() -> None:
    assert CliRunner().invoke(build(["check"]), ["check"]).exit_code == 0
    assert CliRunner().invoke(build(["check"]), ["check", "--minimum-disk-gb", "1e9"]).exit_code == 1
