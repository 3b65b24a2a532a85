"""What can be asked of the engine: one file per job."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sparsevit.errors import InputError

if TYPE_CHECKING:
    from sparsevit.jobs.base import Job

JOBS = {
    "check": "Check versions, devices, memory and free disk.",
    "tiles": "Cut a scene, or a folder of patches, into a tile index.",
    "tag": "Write image-level labels into a tile index.",
    "review": "Review tags: find those that look wrong, and forget them if wanted.",
    "train": "Train the classifier on tagged tiles.",
    "pseudomask": "Generate pseudomasks from a classifier.",
    "suggest": "Suggest which untagged tiles to tag next.",
    "study heads": "Study what attention heads are worth on your own tags.",
    "refine": "Train a segmentation network on the pseudomasks, in rounds.",
    "predict": "Map the land cover of a scene with a saved model.",
    "inspect": "Show what each surviving attention head looks at.",
    "assess": "Assess a map against reference data.",
    "vectorize": "Turn a land-cover map into polygons.",
    "map": "The whole road: from tags to a land-cover map and its report.",
}
"""Names and summaries; the jobs themselves are imported when asked for, because torch takes seconds."""


def get_job(name: str) -> Job:
    """The job of a name.

    Raises:
        InputError: There is no such job.
    """
    if name not in JOBS:
        raise InputError(f"There is no job '{name}'; there are {', '.join(JOBS)}.", "job")
    job: Job = import_module(f"sparsevit.jobs.{name.replace(' ', '_')}").JOB
    return job
