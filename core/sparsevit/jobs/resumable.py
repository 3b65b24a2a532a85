"""Jobs that can be stopped and go on later: where their checkpoints are, and whether to go on from them."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from sparsevit.errors import InputError
from sparsevit.jobs.base import Request
from sparsevit.reporting import Reporter
from sparsevit.training import group


class ResumableRequest(Request):
    """A request to train something, epoch by epoch."""

    checkpoints: Path | None = Field(
        default=None, description="Folder for checkpoints, one per epoch, the last is kept."
    )
    resume: bool = Field(default=False, description="Go on from the last checkpoint in `checkpoints`.")


def check_resumable(request: ResumableRequest) -> None:
    """Refuse to go on from nowhere, before any work.

    Raises:
        InputError: There is no folder to resume from.
    """
    if request.resume and request.checkpoints is None:
        raise InputError("There is nothing to resume from.", "resume", "Give the folder 'checkpoints'.")


def prepare_checkpoints(request: ResumableRequest, files: str, reporter: Reporter) -> None:
    """Make the folder of checkpoints, and remove those of an earlier run unless it is to be resumed.

    Just before the training: a run that is refused costs no checkpoints.

    Args:
        request: Where they are, and whether to resume.
        files: Pattern of the checkpoints that a new run makes worthless; jobs may share a folder.
        reporter: Is told where there is nothing to go on from.
    """
    folder = request.checkpoints
    if folder and group.rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        found = list(folder.glob(files))
        if request.resume and not found:
            reporter.log(f"{folder} holds no checkpoint of this: it starts from the beginning.", "warning")
        for old in [] if request.resume else found:
            old.unlink()
    group.wait()
