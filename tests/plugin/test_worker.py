"""The worker client against real processes that behave and misbehave."""

from __future__ import annotations

import os
import time

import pytest
from conftest import Feedback
from qgis.core import QgsProcessingException


def run(python, job="train", params=None, feedback=None):
    from sparsevit_qgis.engine import worker

    return worker.run_job(python, job, params or {}, feedback or Feedback())


def is_alive(pid):
    """Whether a process lives; a zombie that waits for its parent does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_result_progress_and_log_arrive(stand_in):
    python = stand_in("""
        send("ready", version="1")
        for m in requests:
            send("progress", id=m["id"], progress=0.25, phase="Training")
            send("log", id=m["id"], level="info", text="Grüße")
            send("log", id=m["id"], level="warning", text="careful")
            send("metric", id=m["id"], name="loss", step=1, value=0.5)
            send("metric", id=m["id"], name="loss", step=2, value=None)
            send("result", id=m["id"], result={"job": m["job"], "params": m["params"]})
        """)
    feedback = Feedback()
    assert run(python, "train", {"path": "/ä b/ü.tif"}, feedback) == {"job": "train", "params": {"path": "/ä b/ü.tif"}}
    assert feedback.lines == ["Training", "Grüße", "careful", "loss, 1: 0.5"]
    assert feedback.progress() == 25.0


def test_worker_is_reused_and_then_closed(stand_in):
    from sparsevit_qgis.engine import worker

    python = stand_in("""
        send("ready", version="1")
        for m in requests:
            send("result", id=m["id"], result={"pid": os.getpid()})
        """)
    first, second = run(python), run(python)
    assert first == second
    worker.close_all()
    assert not is_alive(first["pid"])


def test_worker_is_reused_after_an_error(stand_in):
    python = stand_in("""
        send("ready", version="1")
        for m in requests:
            if m["job"] == "bad":
                send("error", id=m["id"], kind="input", message="Raster 'a.tif' is empty.", parameter="scene",
                     hint="Give another one.")
            else:
                send("result", id=m["id"], result={"pid": os.getpid()})
        """)
    before = run(python)
    with pytest.raises(QgsProcessingException) as caught:
        run(python, "bad")
    assert str(caught.value) == "Raster 'a.tif' is empty. Give another one. (parameter SCENE)"
    assert run(python) == before


def test_two_runs_at_once_get_a_worker_each(stand_in):
    from concurrent.futures import ThreadPoolExecutor

    python = stand_in("""
        send("ready", version="1")
        for m in requests:
            time.sleep(0.5)
            send("result", id=m["id"], result={"pid": os.getpid()})
        """)
    with ThreadPoolExecutor(2) as pool:
        pids = {answer["pid"] for answer in pool.map(lambda _: run(python), range(2))}
    assert len(pids) == 2
    assert wait_until(lambda: sum(map(is_alive, pids)) == 1)


@pytest.mark.parametrize(
    "line",
    [
        "oops",
        "[]",
        '{"event": "party"}',
        '{"event": "result", "id": "1"}',
        '{"event": "progress", "id": "1", "pro',
        "ÿ",
    ],
)
def test_malformed_line_is_an_error_and_ends_the_worker(stand_in, tmp_path, line):
    python = stand_in(f"""
        open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
        send("ready", version="1")
        next(requests)
        sys.stdout.buffer.write({line!r}.encode("latin-1") + b"\\n")
        sys.stdout.flush()
        time.sleep(60)
        """)
    with pytest.raises(QgsProcessingException, match="not part of the protocol"):
        run(python)
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_last_words_of_a_dead_worker_are_told_without_traceback(stand_in):
    python = stand_in("""
        send("ready", version="1")
        next(requests)
        raise KeyError("weights")
        """)
    with pytest.raises(QgsProcessingException, match=r"exit code 1.*KeyError: 'weights'") as caught:
        run(python)
    assert "Traceback" not in str(caught.value)


def test_worker_that_does_not_start_is_an_error(stand_in):
    python = stand_in("import no_such_module")
    with pytest.raises(QgsProcessingException, match="No module named 'no_such_module'"):
        run(python)


def test_killed_worker_is_named_as_probably_out_of_memory(stand_in):
    python = stand_in("""
        import signal
        send("ready", version="1")
        next(requests)
        os.kill(os.getpid(), signal.SIGKILL)
        """)
    with pytest.raises(QgsProcessingException, match="out of memory"):
        run(python)


def test_children_of_a_dead_worker_end_too(stand_in, tmp_path):
    python = stand_in(f"""
        import subprocess
        child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
        open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
        send("ready", version="1")
        next(requests)
        os._exit(3)
        """)
    with pytest.raises(QgsProcessingException, match="exit code 3"):
        run(python)
    assert wait_until(lambda: not is_alive(int((tmp_path / "pid").read_text())))


def test_a_new_worker_follows_a_dead_one(stand_in):
    python = stand_in("""
        send("ready", version="1")
        for m in requests:
            if m["job"] == "die":
                os._exit(1)
            send("result", id=m["id"], result={})
        """)
    with pytest.raises(QgsProcessingException):
        run(python, "die")
    assert run(python) == {}


def test_cancel_is_asked_for_politely_and_keeps_the_worker(stand_in):
    python = stand_in("""
        send("ready", version="1")
        for m in requests:
            if m.get("job") == "long":
                assert next(requests) == {"id": m["id"], "cancel": True}
                send("error", id=m["id"], kind="cancelled", message="Cancelled.")
            else:
                send("result", id=m["id"], result={"pid": os.getpid()})
        """)
    before = run(python)
    start = time.monotonic()
    with pytest.raises(QgsProcessingException, match="Cancelled"):
        run(python, "long", feedback=Feedback(cancel_when=lambda: time.monotonic() > start + 0.3))
    assert run(python) == before


def test_worker_that_ignores_a_cancel_is_killed_with_its_children(stand_in, tmp_path, monkeypatch):
    from sparsevit_qgis.engine import worker

    monkeypatch.setattr(worker, "GRACE_S", 0.5)
    monkeypatch.setattr(worker, "END_S", 0.5)
    python = stand_in(f"""
        import signal, subprocess
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
        open({str(tmp_path / "pids")!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
        send("ready", version="1")
        next(requests)
        send("progress", id="1", progress=0.5, phase="deaf")
        time.sleep(60)
        """)
    feedback = Feedback()
    feedback.cancel_when = lambda: "deaf" in feedback.lines
    with pytest.raises(QgsProcessingException, match="Cancelled"):
        run(python, feedback=feedback)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert wait_until(lambda: not any(map(is_alive, pids)))


def test_cancel_before_the_worker_is_ready_ends_it(stand_in):
    python = stand_in("time.sleep(60)")
    start = time.monotonic()
    with pytest.raises(QgsProcessingException, match="Cancelled"):
        run(python, feedback=Feedback(cancel_when=lambda: time.monotonic() > start + 0.3))
    assert time.monotonic() < start + 10


def test_waiting_costs_no_processor_time(stand_in):
    python = stand_in("""
        send("ready", version="1")
        for m in requests:
            time.sleep(2)
            send("result", id=m["id"], result={})
        """)
    before = time.process_time()
    run(python)
    assert time.process_time() - before < 0.2


def test_much_on_stderr_blocks_nothing(stand_in):
    python = stand_in("""
        send("ready", version="1")
        for m in requests:
            sys.stderr.write("noise " * 500_000)
            send("result", id=m["id"], result={})
        """)
    assert run(python) == {}


def test_worker_leads_a_process_group_of_its_own(stand_in):
    python = stand_in("""
        send("ready", version="1")
        for m in requests:
            send("result", id=m["id"], result={"group": os.getpgrp(), "pid": os.getpid()})
        """)
    answer = run(python)
    assert answer["group"] == answer["pid"] != os.getpgrp()
