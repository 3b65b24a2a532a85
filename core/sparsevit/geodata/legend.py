"""Class schemes: the code, name and colour of every land-cover class."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from sparsevit.errors import InputError

NODATA = 255
"""Value of class rasters where nothing is known; never a class code."""


@dataclass(frozen=True)
class LandClass:
    """One class: its code in rasters (0–254), its name, its colour as #rrggbb."""

    code: int
    name: str
    color: str

    @property
    def field(self) -> str:
        """Name of the class's field in a tile index: `has_bare_land`, or by its code where no letter is Latin."""
        words = re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")
        return f"has_{words}" if self.name.isascii() or re.search("[a-z]", words) else f"has_class_{self.code}"

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green and blue, 0–255."""
        return int(self.color[1:3], 16), int(self.color[3:5], 16), int(self.color[5:7], 16)


@dataclass(frozen=True)
class ClassScheme:
    """An ordered list of classes; the order is that of a network's outputs."""

    name: str
    classes: tuple[LandClass, ...]

    @property
    def names(self) -> list[str]:
        """Class names in order."""
        return [c.name for c in self.classes]

    @property
    def codes(self) -> list[int]:
        """Class codes in order."""
        return [c.code for c in self.classes]

    def find(self, label: str | int, parameter: str | None = None) -> LandClass:
        """The class with a name (any case) or code.

        Raises:
            InputError: The scheme has no such class.
        """
        text = str(label).strip()
        for c in self.classes:
            if c.name.casefold() == text.casefold() or str(c.code) == text.removesuffix(".0"):
                return c
        raise InputError(
            f"The class scheme '{self.name}' has no class '{text}'; it has {', '.join(self.names)}.",
            parameter,
            "Correct the spelling, or give a mapping from your classes to the scheme's.",
        )

    def subset(self, labels: list[str] | list[int], parameter: str | None = None) -> ClassScheme:
        """The scheme with only the classes named, in the scheme's order."""
        wanted = {self.find(label, parameter).code for label in labels}
        return ClassScheme(self.name, tuple(c for c in self.classes if c.code in wanted))

    def to_json(self) -> str:
        """The scheme as JSON text; `parse_scheme` reads it back."""
        return json.dumps({"name": self.name, "classes": [asdict(c) for c in self.classes]})


def parse_scheme(text: str, origin: str) -> ClassScheme:
    """Read a scheme from JSON text.

    Raises:
        InputError: The text is not a valid scheme; `origin` is named.
    """
    try:
        data = json.loads(text)
        rows = [(int(c["code"]), str(c["name"]), str(c["color"])) for c in data["classes"]]
        name = str(data.get("name", origin))
    except (ValueError, KeyError, TypeError) as err:
        raise InputError(
            f"{origin} is not a class scheme ({err}).",
            "scheme",
            'It needs {"name": …, "classes": [{"code": 1, "name": "Forest", "color": "#009900"}, …]}.',
        ) from err
    return _checked(name, rows, origin)


def load_scheme(path: Path) -> ClassScheme:
    """Load a class scheme from JSON, or from CSV with the columns code, name, color.

    Raises:
        InputError: The file is missing or is not a valid scheme.
    """
    if not path.is_file():
        raise InputError(f"The class scheme {path} does not exist.", "scheme", "Choose a JSON or CSV file.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(f"The class scheme {path} cannot be read ({err}).", "scheme") from err
    if path.suffix.lower() != ".csv":
        return parse_scheme(text, str(path))
    try:
        rows = [(int(r["code"]), r["name"].strip(), r["color"].strip()) for r in csv.DictReader(text.splitlines())]
    except (KeyError, ValueError, AttributeError) as err:
        raise InputError(
            f"{path} is not a class scheme ({err}).", "scheme", "A CSV scheme has the columns code, name, color."
        ) from err
    return _checked(path.stem, rows, str(path))


def _checked(name: str, rows: list[tuple[int, str, str]], origin: str) -> ClassScheme:
    for code, label, color in rows:
        if not 0 <= code < NODATA or not label or not re.fullmatch(r"#[0-9a-fA-F]{6}", color):
            raise InputError(
                f"{origin}: class {code} '{label}' '{color}' is not valid.",
                "scheme",
                "Codes are 0 to 254, names are not empty, colours are written #rrggbb.",
            )
    classes = tuple(LandClass(*row) for row in rows)
    for what, values in (("codes", [c.code for c in classes]), ("names", [c.field for c in classes])):
        if len(set(values)) != len(values) or not values:
            hint = "Field names are made of the Latin letters and digits of a name." if what == "names" else None
            raise InputError(f"{origin}: class {what} must be given and differ from each other.", "scheme", hint)
    return ClassScheme(name, classes)
