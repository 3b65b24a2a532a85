"""Talk to the engine: a long-lived worker process, one JSON object per line in each direction.

Plugin to worker: `{"id", "job", "params"}` and `{"id", "cancel": true}`. Worker to plugin: `ready` once, then for a job
any number of `progress`, `log` and `metric`, and at the end one `result` or `error`. Everything that is not a result
raises `QgsProcessingException` with one sentence, so that `qgis_process` exits with 1.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import signal
import subprocess  # nosec B404
import threading
import time
from collections import deque

from qgis.core import QgsProcessingException

from ..text import tr
from .environment import clean
from .leftovers import remove_partials

POLL_S = 0.1  # a cancel is noticed after this time at most
GRACE_S = 10.0  # how long a worker may take to stop after it was asked to
END_S = 3.0  # how long a process may take to end by itself, or after SIGTERM
START_S = 180.0  # a first import of torch from a cold or a network disk takes minutes at worst

# What a line of the worker must hold, by event.
_NUMBER = (int, float)
_EVENTS = {
    "ready": {"version": str},
    "progress": {"id": str, "progress": _NUMBER, "phase": str},
    "log": {"id": str, "level": str, "text": str},
    "metric": {"id": str, "name": str, "step": int, "value": (*_NUMBER, type(None))},
    "result": {"id": str, "result": dict},
    "error": {"id": str, "kind": str, "message": str},
}


class Worker:
    """One engine process; it does one job at a time.

    Args:
        python: The engine's interpreter.
    """

    def __init__(self, python):
        self._process = _start(python)
        self._lines = queue.Queue()  # of bytes; None is the end of the stream
        self._stderr = deque(maxlen=50)
        self._jobs = 0
        self._phase = ""
        self._ready = self._busy = False
        self._readers = [threading.Thread(target=r, daemon=True) for r in (self._read_stdout, self._read_stderr)]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self):
        """The engine's process."""
        return self._process.pid

    @property
    def idle(self):
        """Whether the worker lives and can take a job."""
        return self._process.poll() is None and not self._busy

    def run(self, job, params, feedback):
        """Do a job and wait for its result.

        Args:
            job: The job's name.
            params: Its request, as plain values.
            feedback: A `QgsProcessingFeedback`; receives progress and log, and says when to stop.

        Returns:
            The result as a dict.

        Raises:
            QgsProcessingException: The job failed or was cancelled, or the worker died or broke the protocol.
        """
        self._jobs += 1
        self._busy, self._phase = True, ""
        number = str(self._jobs)
        self._wait_until_ready(feedback)
        self._send({"id": number, "job": job, "params": params})
        while True:
            if feedback.isCanceled():
                self._cancel(number)
                raise _cancelled()
            event = self._next_event()
            if event is None or event.get("id") != number:
                continue
            if event["event"] in ("result", "error"):
                self._busy = False
                if event["event"] == "error":
                    raise _failure(event)
                return event["result"]
            self._relay(event, feedback)

    def close(self):
        """End the process: it leaves by itself when its stdin closes, else its group is killed."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self):
        """End the whole process group, politely at first."""
        _end_group(self._process, force=False)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        _end_group(self._process, force=True)
        self._process.wait()

    def _wait_until_ready(self, feedback):
        deadline = time.monotonic() + START_S
        while not self._ready:
            if feedback.isCanceled():
                self.kill()
                raise _cancelled()
            event = self._next_event()
            if event is not None and event["event"] == "ready":
                self._ready = True
            elif time.monotonic() > deadline:
                self.kill()
                raise QgsProcessingException(tr("The engine did not answer within {:.0f} s.").format(START_S))

    def _cancel(self, number):
        """Ask the job to stop; kill the process group if it does not."""
        deadline = time.monotonic() + GRACE_S
        with contextlib.suppress(QgsProcessingException):  # it died meanwhile: stopped all the same
            self._send({"id": number, "cancel": True})
            while time.monotonic() < deadline:
                event = self._next_event()
                if event and event.get("id") == number and event["event"] in ("result", "error"):
                    self._busy = False
                    return
        self.kill()

    def _send(self, message):
        try:
            self._process.stdin.write(json.dumps(message).encode("utf-8") + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._death() from None

    def _next_event(self):
        """The next event, or None when nothing came within `POLL_S`."""
        try:
            line = self._lines.get(timeout=POLL_S)
        except queue.Empty:
            return None
        if line is None:
            raise self._death()
        try:
            event = json.loads(line.decode("utf-8"))
        except ValueError:
            event = None
        fields = _EVENTS.get(event.get("event")) if isinstance(event, dict) else None
        if fields is None or not all(isinstance(event.get(name), kind) for name, kind in fields.items()):
            self.kill()
            text = line[:80].decode("utf-8", "replace").strip()
            raise QgsProcessingException(
                tr("The engine was stopped because it sent a line that is not part of the protocol: '{}'.").format(text)
            )
        return event

    def _relay(self, event, feedback):
        """Show an event in the algorithm's log and progress bar."""
        if event["event"] == "progress":
            feedback.setProgress(100.0 * event["progress"])
            if event["phase"] and event["phase"] != self._phase:
                self._phase = event["phase"]
                feedback.setProgressText(self._phase)
        elif event["event"] == "metric" and event["value"] is not None:
            feedback.pushDebugInfo("{}, {}: {:.4g}".format(event["name"], event["step"], event["value"]))
        elif event["event"] == "log":
            push = feedback.pushWarning if event["level"] == "warning" else feedback.pushInfo
            push(event["text"])

    def _death(self):
        """Clean up after a worker that ended by itself, and say why in one sentence."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        _end_group(self._process, force=True)  # its children may have outlived it
        code = self._process.wait()
        if os.name != "nt" and code == -signal.SIGKILL:
            return QgsProcessingException(
                tr(
                    "The engine was killed while it worked, probably because the machine ran out of memory: "
                    "try a smaller batch, a smaller extent or a smaller preset."
                )
            )
        return QgsProcessingException(
            tr("The engine stopped unexpectedly (exit code {}): {}").format(code, self._last_words())
        )

    def _last_words(self):
        """The last line of stderr: of a Python error the line that names it."""
        for reader in self._readers:
            reader.join(END_S)
        lines = [text for text in (line.decode("utf-8", "replace").strip() for line in list(self._stderr)) if text]
        return lines[-1] if lines else tr("it left no message.")

    def _read_stdout(self):
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _read_stderr(self):
        self._stderr.extend(self._process.stderr)


_idle = {}  # one worker per interpreter waits for the next job, because starting one costs seconds
_lock = threading.Lock()


def run_job(python, job, params, feedback, writes=()):
    """Do a job in a waiting worker, or in a new one; see `Worker.run`.

    Two algorithms that run at the same time get a worker each. What one that had to be killed left half written is
    removed.

    Args:
        python: The engine's interpreter.
        job: The job's name.
        params: Its request.
        feedback: See `Worker.run`.
        writes: Files and folders that the job writes.
    """
    with _lock:
        worker = _idle.pop(python, None)
    if worker is not None and not worker.idle:
        worker.close()
        worker = None
    worker = worker or Worker(python)
    try:
        return worker.run(job, params, feedback)
    finally:
        with _lock:
            surplus = _idle.setdefault(python, worker) if worker.idle else None
        if surplus is not worker:
            worker.close()
            remove_partials(writes, worker.pid)


def close_all():
    """End the workers that wait for a job."""
    with _lock:
        workers = list(_idle.values())
        _idle.clear()
    for worker in workers:
        worker.close()


atexit.register(close_all)


def _start(python):
    # The group of its own lets a cancel end the engine together with its children, and keeps a terminal's Ctrl-C
    # from reaching the engine before QGIS has asked it to stop.
    if os.name == "nt":
        group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    else:
        group = {"start_new_session": True}
    try:
        # No shell; the program is the one that the user set.
        return subprocess.Popen(  # nosec B603
            [python, "-m", "sparsevit.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean(os.environ),
            **group,
        )
    except OSError as err:
        raise QgsProcessingException(
            tr("The engine's interpreter '{}' does not start: {}").format(python, err)
        ) from err


def _end_group(process, force):
    if os.name == "nt":
        taskkill = os.path.join(os.environ.get("SYSTEMROOT", "C:\\Windows"), "System32", "taskkill.exe")
        # No shell; a program of Windows itself, by its full path.
        subprocess.run(  # nosec B603
            [taskkill, "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False
        )
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL if force else signal.SIGTERM)


def _cancelled():
    return QgsProcessingException(tr("Cancelled."))


def _failure(event):
    """The engine's own sentence: what is wrong, which parameter, what to do."""
    text = " ".join(" ".join(filter(None, (event["message"], event.get("hint")))).split())
    parameter = event.get("parameter")
    if parameter and parameter.lower() not in text.lower():
        text = tr("{} (parameter {})").format(text, parameter.upper())
    if event["kind"] == "internal":
        text = tr("The engine met an error that it did not expect: {}").format(text)
    return QgsProcessingException(text)
