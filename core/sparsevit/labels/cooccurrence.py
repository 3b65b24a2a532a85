"""Which classes occur together: whether tags can tell classes apart at all."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sparsevit.errors import InputError
from sparsevit.geodata.legend import ClassScheme
from sparsevit.geodata.tile_index import PRESENT, UNKNOWN
from sparsevit.labels.fields import TagArray


def choose_classes(tags: TagArray, scheme: ClassScheme, wanted: list[str]) -> tuple[ClassScheme, TagArray]:
    """Keep the classes asked for, else those that are present at least once.

    Args:
        tags: `[tiles, classes]` in the order of `scheme`.
        scheme: All classes.
        wanted: Names of the classes to keep; empty keeps those that occur.

    Returns:
        The classes kept, and their tags.

    Raises:
        InputError: No tile is tagged, no class is present, or a class asked for is never present.
    """
    if not (tags != UNKNOWN).any():
        raise InputError("No tile was tagged.", "tiles", "Check that tiles and tags cover the same places.")
    occurs = (tags == PRESENT).any(axis=0)
    if wanted:
        kept = scheme.subset(wanted, "classes")
        never = [c.name for c, there in zip(scheme.classes, occurs, strict=True) if c in kept.classes and not there]
        if never:
            raise InputError(
                f"{_listed(never)} {'is' if len(never) == 1 else 'are'} not present in any tagged tile.",
                "classes",
                "Tag tiles with it, leave it out of 'classes', or lower 'presence_threshold'.",
            )
    elif not occurs.any():
        raise InputError(
            "No class is present in any tagged tile.", "presence_threshold", "Check the tags, or lower the threshold."
        )
    else:
        kept = ClassScheme(scheme.name, tuple(c for c, there in zip(scheme.classes, occurs, strict=True) if there))
    columns = [scheme.codes.index(c) for c in kept.codes]
    return kept, tags[:, columns]


def cooccurrence(tags: TagArray) -> npt.NDArray[np.int64]:
    """Tiles in which both classes are present `[classes, classes]`; the diagonal counts each class."""
    present = (tags == PRESENT).astype(np.int64)
    together: npt.NDArray[np.int64] = present.T @ present
    return together


def contrast_warnings(tags: TagArray, scheme: ClassScheme) -> list[str]:
    """What the tags can never teach: classes without contrast, and classes that always come together."""
    present, known = tags == PRESENT, tags != UNKNOWN
    together = cooccurrence(tags)
    texts = []
    for j, name in enumerate(scheme.names):
        if together[j, j] == known[:, j].sum():
            texts.append(
                f"{name} is present in every tile where it is known: without tiles that lack it, it cannot be learnt. "
                "Tag some, or cut smaller tiles."
            )
        elif together[j, j] < 5:
            texts.append(f"{name} is present in {together[j, j]} tile(s) only: expect little of it.")
    for a in range(len(scheme.classes)):
        for b in range(a + 1, len(scheme.classes)):
            told = known[:, a] & known[:, b]
            if together[a, b] and (present[told, a] == present[told, b]).all():
                texts.append(
                    f"{scheme.names[a]} and {scheme.names[b]} always occur together: the tags cannot tell them apart. "
                    "Tag tiles with only one of them, cut smaller tiles, or join the two classes."
                )
    return texts


def table_text(tags: TagArray, scheme: ClassScheme) -> str:
    """The co-occurrence table as text: row and column are classes, cells count tiles."""
    together = cooccurrence(tags)
    unknown = (tags == UNKNOWN).sum(axis=0)
    numbers = [str(i + 1) for i in range(len(scheme.classes))]
    name_width = max(len(n) for n in scheme.names) + len(numbers[-1]) + 1
    width = max(len(str(together.max())), len(str(unknown.max())), 4) + 1
    head = " " * name_width + "".join(n.rjust(width) for n in numbers) + "  unknown"
    lines = [head]
    for i, name in enumerate(scheme.names):
        cells = "".join(str(v).rjust(width) for v in together[i])
        lines.append(
            f"{numbers[i].rjust(len(numbers[-1]))} {name}".ljust(name_width) + cells + str(unknown[i]).rjust(9)
        )
    return "\n".join(lines)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
