"""What an engine that was killed in the middle of writing leaves behind."""

from __future__ import annotations

import contextlib
import glob
import os


def remove_partials(paths):
    """Remove half-written files beside outputs: the engine writes `.name.pid.partial.suffix` and renames it at the end.

    An engine that stops by itself removes them; one that had to be killed cannot.

    Args:
        paths: Outputs of a run that failed, files or folders; empty ones are skipped.
    """
    for path in filter(None, paths):
        folder, stem = (path, "*") if os.path.isdir(path) else os.path.split(os.path.splitext(path)[0])
        pattern = stem if stem == "*" else glob.escape(stem)
        for left in glob.glob(os.path.join(glob.escape(folder), ".{}.*.partial*".format(pattern))):
            with contextlib.suppress(OSError):
                os.remove(left)
