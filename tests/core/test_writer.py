"""Rasters out: legend, nodata, overviews, and nothing half written."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_origin
from small_rasters import ORIGIN, scheme

from sparsevit.errors import InputError, ResourceError
from sparsevit.geodata.legend import parse_scheme
from sparsevit.geodata.scene import Grid
from sparsevit.geodata.writer import SCHEME_TAG, class_raster, float_raster, share_by_class
from sparsevit.outputs import check_writable, whole_file

GRID = Grid(CRS.from_epsg(32618), from_origin(*ORIGIN, 10, 10), 700, 600)


def codes(rows: slice = slice(None)) -> np.ndarray:
    return np.random.default_rng(0).choice([1, 2, 10, 255], (600, 700)).astype(np.uint8)[rows]


@pytest.mark.parametrize("cog", [False, True])
def test_a_class_raster_carries_its_legend_nodata_and_place(tmp_path: Path, cog: bool) -> None:
    path = tmp_path / "map.tif"
    with class_raster(path, GRID, scheme(), {"SPARSEVIT_MODEL": "m.safetensors"}, cog) as out:
        for top in range(0, 600, 200):
            out.write_rows(top, codes(slice(top, top + 200)))
    with rasterio.open(path) as src:
        np.testing.assert_array_equal(src.read(1), codes())
        assert (src.nodata, src.dtypes[0], src.crs, src.transform) == (255, "uint8", GRID.crs, GRID.transform)
        assert src.colormap(1)[10] == (0x1C, 0x0D, 0xFF, 255)
        assert src.tags()["SPARSEVIT_MODEL"] == "m.safetensors"
        assert parse_scheme(src.tags()[SCHEME_TAG], "map") == scheme()
        assert src.overviews(1)
        assert src.profile["tiled"]
        assert src.profile["compress"] == "deflate"
        if cog:
            assert src.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    names = (tmp_path / "map.tif.aux.xml").read_text()
    assert "<Category>Urban/Built-up</Category>" in names
    assert names.index("Forest") < names.index("Water")


def test_overviews_keep_class_codes(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    with class_raster(path, GRID, scheme(), {}) as out:
        out.write_rows(0, codes())
    with rasterio.open(path) as src:
        small = src.read(1, out_shape=(300, 350))
    assert set(np.unique(small)) <= {1, 2, 10, 255}


def test_a_float_raster_has_named_bands_and_nan_nodata(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((2, 600, 700)).astype(np.float32)
    values[:, 0, 0] = np.nan
    with float_raster(tmp_path / "p.tif", GRID, ["Forest", "Water"], {}) as out:
        out.write_rows(0, values)
    with rasterio.open(tmp_path / "p.tif") as src:
        np.testing.assert_array_equal(src.read(), values)
        assert src.descriptions == ("Forest", "Water")
        assert np.isnan(src.nodata)


def test_a_failed_run_leaves_no_file_and_keeps_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"

    def fail() -> None:
        with class_raster(path, GRID, scheme(), {}) as out:
            out.write_rows(0, codes())
            raise KeyError("half way")

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"older")
    with pytest.raises(KeyError):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["map.tif"]
    assert path.read_bytes() == b"older"


def test_a_folder_that_vanished_is_a_resource_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ResourceError, match="cannot be written"),
        class_raster(tmp_path / "gone" / "map.tif", GRID, scheme(), {}),
    ):
        pass


def test_a_small_raster_needs_no_overviews(tmp_path: Path) -> None:
    grid = Grid(GRID.crs, GRID.transform, 3, 2)
    with class_raster(tmp_path / "s.tif", grid, scheme(), {}) as out:
        out.write_rows(0, np.array([[1, 2, 10], [255, 1, 1]], np.uint8))
    with rasterio.open(tmp_path / "s.tif") as src:
        assert src.read(1).tolist() == [[1, 2, 10], [255, 1, 1]]


def test_side_files_move_with_the_output(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a.tif") as partial:
        partial.write_text("a")
        partial.with_name(partial.name + ".aux.xml").write_text("b")
        assert not (tmp_path / "a.tif").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "a.tif.aux.xml"]


def test_side_files_of_a_former_output_go(tmp_path: Path) -> None:
    for suffix in (".aux.xml", ".ovr", ".msk"):
        (tmp_path / f"a.tif{suffix}").write_text("of the former raster")
    with whole_file(tmp_path / "a.tif") as partial:
        partial.write_text("a")
        partial.with_name(partial.name + ".aux.xml").write_text("new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "a.tif.aux.xml"]
    assert (tmp_path / "a.tif.aux.xml").read_text() == "new"


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from rasterio.crs import CRS
from rasterio.transform import from_origin
from sparsevit.errors import ResourceError
from sparsevit.geodata.scene import Grid
from sparsevit.geodata.writer import float_raster

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit is an error, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    grid = Grid(CRS.from_epsg(32618), from_origin(0, 0, 10, 10), 512, 512)
    with float_raster(Path(sys.argv[1]), grid, ["a"], {}, cog=sys.argv[3] == "cog") as out:
        for top in range(0, 512, 64):
            out.write_rows(top, np.random.default_rng(top).random((64, 512)).astype(np.float32))
except ResourceError as err:
    print(err)
"""


@pytest.mark.parametrize("kind", ["cog", "plain"])
def test_a_disk_that_fills_up_is_a_resource_error_and_keeps_the_older_raster(tmp_path: Path, kind: str) -> None:
    """Wherever it happens: in the data, in an overview, in the directory at the end."""
    path = tmp_path / "shares.tif"

    def write(limit: int) -> str:
        path.write_bytes(b"older")
        command = [sys.executable, "-c", FULL_DISK, path, str(limit), kind]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert write(10**8) == ""
    size = path.stat().st_size
    for share in (0.001, 0.3, 0.75, 0.9, 0.95, 0.97, 0.985, 0.993, 0.999):
        said = write(int(share * size))
        assert "shares.tif cannot be written" in said, share
        assert [p.name for p in tmp_path.iterdir()] == ["shares.tif"] and path.read_bytes() == b"older"


def test_a_file_that_another_program_edits_is_refused_until_it_has_ended(tmp_path: Path) -> None:
    """Its journal would be played over the new file, even one of edits that are saved."""
    path, new = tmp_path / "tiles.gpkg", tmp_path / "new"
    with contextlib.closing(sqlite3.connect(new)) as other:
        other.execute("CREATE TABLE newer (number)")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as edited:
        edited.execute("PRAGMA journal_mode=WAL")
        edited.execute("CREATE TABLE tags (text)")
        edited.execute("BEGIN")
        edited.execute("INSERT INTO tags VALUES ('Forest')")
        with pytest.raises(InputError, match="is being edited in another program"):
            check_writable(path, (".gpkg",))
        with pytest.raises(InputError, match="is being edited"), whole_file(path) as partial:
            shutil.copy(new, partial)
        edited.execute("COMMIT")
        assert edited.execute("SELECT * FROM tags").fetchall() == [("Forest",)]
        assert (tmp_path / "tiles.gpkg-wal").stat().st_size > 0
        check_writable(path, (".gpkg",))
        with whole_file(path) as partial:
            shutil.copy(new, partial)
        with contextlib.closing(sqlite3.connect(path)) as found:
            assert found.execute("SELECT name FROM sqlite_master").fetchall() == [("newer",)]


def test_outputs_that_cannot_be_written_are_refused_before_work_starts(tmp_path: Path) -> None:
    check_writable(tmp_path / "map.TIF", (".tif",))
    with pytest.raises(InputError, match=r"does not end in \.tif"):
        check_writable(tmp_path / "map.png", (".tif",))
    with pytest.raises(InputError, match=r"The folder .*gone does not exist"):
        check_writable(tmp_path / "gone" / "map.tif", (".tif",))
    (tmp_path / "d.tif").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(tmp_path / "d.tif", (".tif",))


def test_shares_add_up_to_one_over_the_labelled_area() -> None:
    counts = np.bincount(codes().ravel(), minlength=256)
    shares = share_by_class(counts, scheme())
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["Forest"] == pytest.approx(1 / 3, abs=0.01)
    assert shares["Savanna"] == 0
