"""The import rules of the house: the plugin and the engine never meet, and inside the engine imports run downhill."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ENGINE = REPOSITORY / "core" / "sparsevit"
PLUGIN = REPOSITORY / "sparsevit_qgis"

# A room may import itself, what stands behind it here, and these, which are free for all.
FREE = frozenset({"", "errors", "reporting", "settings", "outputs"})
GROUND = frozenset({"models", "geodata"})
METHOD = frozenset({"training", "weak", "mapping", "assessment", "labels"})
MAY_IMPORT: dict[str, frozenset[str]] = {
    **dict.fromkeys(GROUND | FREE, frozenset()),
    **dict.fromkeys(METHOD, GROUND),
    "jobs": METHOD | GROUND,
    "scaleout": frozenset({"jobs"}) | METHOD | GROUND,
    "cli": frozenset({"jobs", "scaleout"}),
    "worker": frozenset({"jobs"}),
}


def room_of(path: Path) -> str:
    """The room of the engine that a file belongs to; empty for the package itself."""
    first = path.relative_to(ENGINE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Every absolute import of a file, wherever it stands: line and dotted name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def engine_files() -> list[Path]:
    return sorted(ENGINE.rglob("*.py"))


@pytest.mark.parametrize("path", engine_files(), ids=lambda p: str(p.relative_to(ENGINE)))
def test_imports_run_downhill(path: Path) -> None:
    room = room_of(path)
    assert room in MAY_IMPORT, f"room '{room}' is not in DESIGN"
    for line, name in imported_modules(path):
        parts = name.split(".")
        if parts[0] != "sparsevit" or len(parts) < 2 or parts[1].startswith("__"):
            continue
        allowed = MAY_IMPORT[room] | FREE | {room}
        assert parts[1] in allowed, f"{path.name}:{line}: '{room}' imports '{name}', which does not run downhill"


@pytest.mark.parametrize("path", engine_files(), ids=lambda p: str(p.relative_to(ENGINE)))
def test_engine_uses_no_relative_imports(path: Path) -> None:
    relative = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.ImportFrom) and n.level]
    assert not relative


def test_engine_never_imports_qgis() -> None:
    for path in engine_files():
        assert not [name for _line, name in imported_modules(path) if name.split(".")[0] in ("qgis", "PyQt5", "PyQt6")]


def test_models_know_no_rasters_and_geodata_knows_no_networks() -> None:
    forbidden = {"models": {"rasterio", "geopandas", "pyogrio"}, "geodata": {"torch", "timm"}}
    for path in engine_files():
        for line, name in imported_modules(path):
            package = name.split(".")[0]
            assert package not in forbidden.get(room_of(path), set()), f"{path.name}:{line} imports {package}"


def test_plugin_imports_only_qgis_and_the_standard_library() -> None:
    allowed = {"qgis", "processing"} | sys.stdlib_module_names  # `processing` comes with QGIS
    for path in sorted(PLUGIN.rglob("*.py")):
        for line, name in imported_modules(path):
            package = name.split(".")[0]
            assert package in allowed, f"{path.name}:{line} imports {package}"
            assert not name.startswith("qgis.gui"), f"{path.name}:{line}: qgis_process has no graphical interface"


def test_plugin_imports_qt_through_qgis_and_never_prints() -> None:
    for path in sorted(PLUGIN.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
        assert not [call.lineno for call in calls if call.func.id == "print"], path.name
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.Assert)], path.name


def function_lengths(path: Path) -> Iterator[tuple[str, int]]:
    """The length of each function of a file in lines, without its docstring."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body:
                yield f"{path.name}:{node.name}", (node.end_lineno or 0) - body[0].lineno + 1


def test_no_function_is_over_60_lines() -> None:
    # Lists of parameters are data: their length says nothing about concepts.
    data = {"definitions", "tiling", "classifier", "training", "pseudomask", "refinement"}
    for path in [*engine_files(), *sorted(PLUGIN.rglob("*.py"))]:
        for name, lines in function_lengths(path):
            if path.is_relative_to(PLUGIN) and name.split(":")[1] in data:
                continue
            assert lines <= 60, f"{name} has {lines} lines: what is the second concept?"
