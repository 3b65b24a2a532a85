"""The plugin's door: a long-lived process that takes jobs as JSON lines and answers in JSON lines.

In:  `{"id", "job", "params"}` and `{"id", "cancel": true}`.
Out: `{"event": "ready"}` once, then for each job `progress`, `log`, `metric`, and at last `result` or `error`.

The real stdout belongs to the protocol; whatever a library prints goes to stderr. When stdin closes, the worker and
its children end: a killed QGIS leaves nothing behind. A fault of the engine itself ends the worker with a traceback
on stderr, whose tail the plugin attaches to its error.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from typing import Any, TextIO

from sparsevit import __version__
from sparsevit.errors import SparseViTError
from sparsevit.jobs import get_job
from sparsevit.reporting import CallbackReporter


class Worker:
    """Runs jobs one after another.

    Args:
        requests: Lines from the plugin.
        replies: Lines to the plugin.
    """

    def __init__(self, requests: TextIO, replies: TextIO) -> None:
        self._requests, self._replies = requests, replies
        self._jobs: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._cancelled: set[str] = set()
        self._busy = False
        self._lock = threading.Lock()

    def send(self, event: str, fields: dict[str, Any]) -> None:
        """Write one line."""
        line = json.dumps({"event": event, **fields}, allow_nan=False, default=str)
        with self._lock:
            self._replies.write(line + "\n")
            self._replies.flush()

    def serve(self) -> None:
        """Answer until stdin closes."""
        threading.Thread(target=self._listen, daemon=True).start()
        self.send("ready", {"version": __version__, "pid": os.getpid()})
        while (message := self._jobs.get()) is not None:
            self._busy = True
            self._answer(message)
            self._busy = False

    def _listen(self) -> None:
        for line in self._requests:
            if not line.strip():
                continue
            try:
                message = json.loads(line)
                job_id = str(message["id"])
            except (ValueError, KeyError, TypeError):
                self.send("error", {"id": None, **_fields("input", "The worker received a malformed line.")})
                continue
            if message.get("cancel"):
                self._cancelled.add(job_id)
            else:
                self._jobs.put(message)
        self._jobs.put(None)
        if self._busy:
            _end_process_group()

    def _answer(self, message: dict[str, Any]) -> None:
        job_id = str(message["id"])

        def emit(event: str, fields: dict[str, object]) -> None:
            self.send(event, {"id": job_id, **_finite(fields)})

        reporter = CallbackReporter(emit, lambda: job_id in self._cancelled)
        try:
            result = get_job(str(message.get("job"))).execute(message.get("params") or {}, reporter)
        except SparseViTError as err:
            emit("error", _fields(err.kind, err.message, err.parameter, err.hint))
            return
        emit("result", {"result": result.model_dump(mode="json")})


def _fields(kind: str, message: str, parameter: str | None = None, hint: str | None = None) -> dict[str, object]:
    return {"kind": kind, "message": message, "parameter": parameter, "hint": hint}


def _finite(value: Any) -> Any:
    """JSON has no NaN: it becomes null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and value - value != 0 else value


def _end_process_group() -> None:
    """Stop this process and its children at once; nobody is left to hear a result."""
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def main() -> None:
    """Serve on stdin and stdout."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    requests = os.fdopen(os.dup(sys.stdin.fileno()), encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    Worker(requests, replies).serve()


if __name__ == "__main__":
    main()
