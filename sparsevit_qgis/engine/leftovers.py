"""What an engine that was killed in the middle of writing leaves behind."""

from __future__ import annotations

import contextlib
import glob
import os


def remove_partials(paths, pid):
    """Remove half-written files beside outputs: the engine writes `.name.pid.partial.suffix` and renames it at the end.

    An engine that stops by itself removes them; one that had to be killed cannot.

    Args:
        paths: Outputs of a run, files or folders; empty ones are skipped.
        pid: The engine's process.
    """
    for path in filter(None, paths):
        folder, name = os.path.split(path)
        pattern = f".{glob.escape(os.path.splitext(name)[0])}.{pid}.partial*"
        if os.path.isdir(path):
            folder, pattern = path, f".*.{pid}.partial*"
        for left in glob.glob(os.path.join(glob.escape(folder), pattern)):
            with contextlib.suppress(OSError):
                os.remove(left)
