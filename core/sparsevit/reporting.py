"""How a job talks while it works: progress, log lines, metrics, and whether it should stop."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sparsevit.errors import CancelledError

logger = logging.getLogger("sparsevit")


class Reporter:
    """Receives a job's progress; the base class writes to the `sparsevit` logger and never cancels.

    A long job hands parts of its own range to its steps with `part`, so that progress from 0 to 1
    moves once through the whole job.
    """

    def progress(self, fraction: float, phase: str = "") -> None:
        """Report that `fraction` (0–1) of the work is done; `phase` names the work in a few words."""
        logger.debug("%3.0f %% %s", 100 * fraction, phase)

    def log(self, text: str, level: str = "info") -> None:
        """Pass a line to the user; `level` is `info` or `warning`."""
        logger.log(logging.WARNING if level == "warning" else logging.INFO, text)

    def metric(self, name: str, step: int, value: float) -> None:
        """Report the value of a named quantity at an epoch or round."""
        logger.debug("%s[%d] = %.5f", name, step, value)

    def cancelled(self) -> bool:
        """Tell whether the user asked to stop."""
        return False

    def check(self) -> None:
        """Stop here if the user asked to.

        Raises:
            CancelledError: The user asked to stop.
        """
        if self.cancelled():
            raise CancelledError

    def part(self, start: float, stop: float, phase: str = "") -> Reporter:
        """Give a step the range `start`–`stop` of this reporter's progress."""
        return PartReporter(self, start, stop, phase)


class PartReporter(Reporter):
    """A slice of another reporter's progress."""

    def __init__(self, parent: Reporter, start: float, stop: float, phase: str) -> None:
        self.parent, self.start, self.stop, self.phase = parent, start, stop, phase

    def progress(self, fraction: float, phase: str = "") -> None:
        text = ": ".join(t for t in (self.phase, phase) if t)
        self.parent.progress(self.start + (self.stop - self.start) * min(max(fraction, 0.0), 1.0), text)

    def log(self, text: str, level: str = "info") -> None:
        self.parent.log(text, level)

    def metric(self, name: str, step: int, value: float) -> None:
        self.parent.metric(name, step, value)

    def cancelled(self) -> bool:
        return self.parent.cancelled()


class CallbackReporter(Reporter):
    """Sends every event to one function `emit(event, fields)`; used by the worker and the command line."""

    def __init__(self, emit: Callable[[str, dict[str, object]], None], cancelled: Callable[[], bool]) -> None:
        self._emit, self._cancelled = emit, cancelled

    def progress(self, fraction: float, phase: str = "") -> None:
        self._emit("progress", {"progress": round(fraction, 4), "phase": phase})

    def log(self, text: str, level: str = "info") -> None:
        self._emit("log", {"level": level, "text": text})

    def metric(self, name: str, step: int, value: float) -> None:
        self._emit("metric", {"name": name, "step": step, "value": value})

    def cancelled(self) -> bool:
        return self._cancelled()
