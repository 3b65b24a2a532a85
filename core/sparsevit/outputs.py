"""Outputs appear whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import multiprocessing
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from sparsevit.errors import InputError

SIDE_FILES = (".aux.xml", ".ovr", ".msk")
"""What GDAL keeps beside a raster: statistics, overviews and mask of that very raster."""


def check_writable(path: Path, suffixes: tuple[str, ...], parameter: str = "output") -> None:
    """Refuse an output that cannot be written, before any work starts.

    Raises:
        InputError: The suffix is not one of `suffixes`, the folder does not exist, it cannot be written, or another
            program is editing the file.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise InputError(f"{path} does not end in {' or '.join(suffixes)}.", parameter, "Change the file name.")
    folder = path.expanduser().resolve().parent
    if not folder.is_dir():
        raise InputError(f"The folder {folder} does not exist.", parameter, "Create it or choose another one.")
    if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)) or path.is_dir():
        raise InputError(f"{path} cannot be written.", parameter, "Choose another folder or file name.")
    _settle_journal(path.expanduser().resolve(), parameter)


def _settle_journal(path: Path, parameter: str | None) -> None:
    """Refuse to replace a GeoPackage that another program is writing: its journal would spoil the new file.

    What lies in the journal without being at work any more, as after edits in a layer that is still shown, is brought
    into the file first.
    """
    journal = path.with_name(path.name + "-wal")
    if not path.is_file():  # nothing may be left of a file that is gone
        journal.unlink(missing_ok=True)
    if not journal.is_file() or journal.stat().st_size == 0:
        return
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=1)) as database:
            busy = bool(database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
    except sqlite3.DatabaseError:
        busy = True
    if busy:
        raise InputError(
            f"{path} is being edited in another program.",
            parameter,
            "Save it and end editing there, or close it, then run again.",
        )


def check_distinct(outputs: Mapping[str, Path | None], inputs: Iterable[Path | None] = ()) -> None:
    """Refuse outputs of which one would replace another, or a file that is read.

    Args:
        outputs: By parameter; None where an output is left out.
        inputs: Files that are read; `file.gpkg|layername=name` is that file.

    Raises:
        InputError: Two of them are the same file.
    """
    taken = {Path(str(path).partition("|")[0]).expanduser().resolve(): "" for path in inputs if path}
    for name, path in outputs.items():
        if path is None:
            continue
        other = taken.setdefault(path.expanduser().resolve(), name)
        if other != name:
            whose = f"'{name}' and '{other}' are the same file {path}" if other else f"{path} is an input, too"
            raise InputError(f"{whose}.", name, "Give each output a name of its own.")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; it takes the final name only when the block ends without an error.

    Side files that start with the temporary name (`.aux.xml`) move with it; those of a former file are removed.
    """
    path = path.expanduser().resolve()
    leader = multiprocessing.parent_process()  # whoever has to clean up knows the process that it started
    partial = path.with_name(f".{path.stem}.{leader.pid if leader else os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        _settle_journal(path, None)
        umask = os.umask(0)
        os.umask(umask)
        written = {
            file.name.removeprefix(partial.name): file for file in path.parent.glob(f"{glob.escape(partial.name)}*")
        }
        for suffix, file in sorted(written.items()):
            file.chmod(0o666 & ~umask)  # some libraries create private files
            os.replace(file, path.with_name(path.name + suffix))
        for suffix in set(SIDE_FILES) - set(written):  # of a former file of this name
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    finally:
        for left in path.parent.glob(f"{glob.escape(partial.name)}*"):
            left.unlink()
