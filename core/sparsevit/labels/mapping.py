"""From the words and numbers of a tag source to the classes of a scheme."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sparsevit.errors import InputError
from sparsevit.geodata.legend import NODATA, ClassScheme, LandClass

Translation = dict[str, int | None]
"""Class code by source value (as `key` writes it); none drops the value."""


def key(value: object) -> str:
    """The spelling under which a source value is looked up: no case, no outer blanks, `10.0` = `10`."""
    return str(value).strip().casefold().removesuffix(".0")


def load_mapping(mapping: Path | Mapping[str, str | int | None] | None, scheme: ClassScheme) -> Translation | None:
    """Read a mapping from source values to classes.

    Args:
        mapping: From source values to names or codes of the scheme; null, empty or 255 drops a value. A JSON file holds
            an object, a CSV file two columns (a first line whose second cell is no class is a heading).
        scheme: The classes.

    Raises:
        InputError: The file is missing or malformed, or a target is no class of the scheme.
    """
    if mapping is None:
        return None
    if isinstance(mapping, Path):
        pairs, origin = _read_pairs(mapping, scheme), str(mapping)
    else:
        pairs, origin = [(str(k), v) for k, v in mapping.items()], "The mapping"
    translation: Translation = {}
    for source, target in pairs:
        if _drops(target):
            translation[key(source)] = None
            continue
        found = _class_of(target, scheme)
        if found is None:
            raise InputError(
                f"{origin} maps '{source}' to '{target}', which is no class of '{scheme.name}'.",
                "mapping",
                f"Use one of {', '.join(scheme.names)}, or leave it empty to drop the value.",
            )
        translation[key(source)] = found.code
    if not translation:
        raise InputError(f"{origin} is empty.", "mapping", 'Write pairs such as {"Woodland": "Forest"}.')
    return translation


def code_table(translation: Translation | None, scheme: ClassScheme) -> dict[int, int]:
    """For rasters: position of the class in the scheme by pixel value; values that are dropped have no entry.

    Raises:
        InputError: No source value of the mapping is a whole number.
    """
    position = {code: i for i, code in enumerate(scheme.codes)}
    if translation is None:
        return position
    table = {int(k): position[c] for k, c in translation.items() if c is not None and k.lstrip("-").isdigit()}
    if not table:
        raise InputError("The mapping has no pixel value.", "mapping", 'Write pairs such as {"11": "Wetlands"}.')
    return table


def resolve(label: str, scheme: ClassScheme, translation: Translation | None, where: str) -> int | None:
    """The code of the class that a word or number of a vector layer stands for; none if it is dropped.

    Beside the mapping, names of the scheme (but not numbers) keep their meaning.

    Raises:
        InputError: The label is unknown; names it, and `where` it stands.
    """
    name = key(label)
    if translation is not None and name in translation:
        return translation[name]
    found = _class_of(label, scheme)
    if found is None or (translation is not None and name.isdigit()):
        raise InputError(
            f"{where} has the class '{str(label).strip()}', which '{scheme.name}' does not have.",
            "mapping",
            f"Correct it to one of {', '.join(scheme.names)}, or map it with 'mapping'.",
        )
    return found.code


def class_positions(
    values: Iterable[object], scheme: ClassScheme, translation: Translation | None, where: str
) -> npt.NDArray[np.intp]:
    """Position in the scheme of each value of a class field; -1 for null and dropped values.

    Raises:
        InputError: A value is no class; names it, and `where` it stands.
    """
    position = {code: j for j, code in enumerate(scheme.codes)} | {None: -1}
    found = {"none": -1, "nan": -1, "<na>": -1, "": -1}
    positions = []
    for value in values:
        name = key(value)
        if name not in found:
            found[name] = position[resolve(str(value), scheme, translation, where)]
        positions.append(found[name])
    return np.array(positions, dtype=np.intp)


def known_labels(scheme: ClassScheme, translation: Translation | None) -> set[str]:
    """Every spelling that `resolve` understands."""
    return {key(n) for n in scheme.names} | {key(c) for c in scheme.codes} | set(translation or ())


def _class_of(target: object, scheme: ClassScheme) -> LandClass | None:
    wanted = key(target)
    return next((c for c in scheme.classes if wanted in (key(c.name), str(c.code))), None)


def _drops(target: object) -> bool:
    return target is None or key(target) in ("", str(NODATA))


def _read_pairs(path: Path, scheme: ClassScheme) -> list[tuple[str, object]]:
    if not path.is_file():
        raise InputError(f"The mapping {path} does not exist.", "mapping", "Choose a JSON or CSV file.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _csv_pairs(text, scheme) if path.suffix.lower() == ".csv" else _json_pairs(text)
    except (OSError, ValueError) as err:
        raise InputError(
            f"{path} is not a mapping ({err}).",
            "mapping",
            'It needs {"source value": "class", …} as JSON, or two columns as CSV.',
        ) from err


def _json_pairs(text: str) -> list[tuple[str, object]]:
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError("no object at the top")
    return list(data.items())


def _csv_pairs(text: str, scheme: ClassScheme) -> list[tuple[str, object]]:
    lines = text.splitlines()
    separator = next((s for s in ";\t" if lines and s in lines[0]), ",")
    rows = [r for r in csv.reader(lines, delimiter=separator) if any(cell.strip() for cell in r)]
    if any(len(r) != 2 for r in rows):
        raise ValueError("a line has not two columns")
    if rows and not _drops(rows[0][1]) and _class_of(rows[0][1], scheme) is None:
        rows = rows[1:]
    return [(source, target) for source, target in rows]
