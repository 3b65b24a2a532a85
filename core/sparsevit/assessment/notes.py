"""What a reader of the report must know to judge its numbers."""

from __future__ import annotations

from sparsevit.assessment.area import AreaEstimate
from sparsevit.geodata.legend import ClassScheme

POINTS_NOTE = (
    "The intervals assume that the points were drawn at random within each class of this map. If they were chosen "
    "otherwise, take the area estimates as indications."
)
PIXELS_NOTE = (
    "Neighbouring pixels resemble each other, so the pixels of a wall-to-wall or polygon reference are not an "
    "independent random sample: the 95 % intervals are too narrow, and they hold for the whole map only if the "
    "compared area represents it."
)
TRUTH_NOTE = "The reference counts as the truth here. Its own errors count against the map."
EVERYWHERE_NOTE = "Places that were used to make the map, if the reference covers any, make it look better than it is."
TRAINING_NOTE = "The model was trained with tags of these very tiles: expect lower accuracy elsewhere."
VALIDATION_NOTE = (
    "The tags of these tiles decided how far the segmentation network counts: accuracy elsewhere may be a little lower."
)
DEGREES_NOTE = "No areas are given: the map's CRS is in degrees."


def sampling_notes(unit: str, split: str | None) -> list[str]:
    """How far the sample represents the map.

    Args:
        unit: `pixels` or `points`.
        split: The split that the comparison was restricted to, if any.
    """
    notes = [POINTS_NOTE if unit == "points" else PIXELS_NOTE]
    by_split = {None: EVERYWHERE_NOTE, "train": TRAINING_NOTE, "validation": VALIDATION_NOTE}
    return [*notes, *([by_split[split]] if split in by_split else []), TRUTH_NOTE]


def caution_notes(cautions: list[str], learner: str) -> list[str]:
    """What tags cannot teach, whatever the numbers say.

    Args:
        cautions: What they lack, a sentence or two each.
        learner: Who learned from them, as `map`.
    """
    return [f"In the tags that the {learner} learned from: {text}" for text in cautions]


def foreign_note(name: str, foreign: dict[int, int], compared: int, scheme: ClassScheme) -> list[str]:
    """Values that stand for no class: which, and how much of the comparison they would have been.

    Args:
        name: `map` or `reference`.
        foreign: Pixels or points by value.
        compared: Those that were compared.
        scheme: The classes.
    """
    total = sum(foreign.values())
    if not total:
        return []
    values = ", ".join(map(str, sorted(foreign)[:10])) + (", …" if len(foreign) > 10 else "")
    return [
        f"Values of the {name} that are no class of '{scheme.name}' were left out: {values} "
        f"({total} of {total + compared} that could be compared, {total / (total + compared):.1%})."
    ]


def area_notes(areas: AreaEstimate | None, scheme: ClassScheme) -> list[str]:
    """What the area estimates lack."""
    if areas is None:
        return [DEGREES_NOTE]
    notes = []
    names = [n for n, area in zip(scheme.names, areas.unsampled, strict=True) if area > 0]
    if names:
        where = "Mapped, but without any reference in the mapped area, and so missing from the estimate"
        notes.append(f"{where}: {', '.join(names)}.")
    alone = [n for n, single in zip(scheme.names, areas.single, strict=True) if single]
    if alone:
        why = "A single pixel or point of the reference lies in what is mapped as this, which tells no spread"
        notes.append(f"{why}, so that the intervals are too narrow: {', '.join(alone)}.")
    return notes
