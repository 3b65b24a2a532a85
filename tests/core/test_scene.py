"""Scenes: rasters of any grid, resolution and sensor, seen as one stack on one grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.warp import Resampling, reproject
from rasterio.windows import Window
from small_rasters import ORIGIN, SAMPLE, development_data, write_raster

from sparsevit.errors import InputError
from sparsevit.geodata.scene import Grid, open_scene

SIDE = 40


def ramp(side: int, gsd: float, origin: tuple[float, float]) -> np.ndarray:
    """A raster whose value is a linear function of the place."""
    x = origin[0] - ORIGIN[0] + (np.arange(side) + 0.5) * gsd
    y = ORIGIN[1] - origin[1] + (np.arange(side) + 0.5) * gsd
    return (x[None, :] + 3 * y[:, None] + 1000).astype(np.float32)


def whole(scene) -> Window:
    return Window(0, 0, scene.grid.width, scene.grid.height)


@pytest.fixture
def fine(tmp_path: Path) -> Path:
    return write_raster(tmp_path / "fine.tif", ramp(SIDE, 10, ORIGIN), names=["B02"])


@pytest.mark.parametrize("shift", [0.0, -10.0, 3.0])
def test_a_shifted_20_m_grid_lands_on_the_right_ground(tmp_path: Path, fine: Path, shift: float) -> None:
    origin = (ORIGIN[0] + shift - 40, ORIGIN[1] + 40)
    coarse = write_raster(tmp_path / "coarse.tif", ramp(30, 20, origin), gsd=20, origin=origin, names=["B11"])
    with open_scene([fine, coarse]) as scene:
        values, valid = scene.read(whole(scene))
    assert valid.all()
    np.testing.assert_allclose(values[1], values[0], atol=0.01)  # bilinear resampling keeps a linear function


def test_resampling_equals_gdalwarp_of_the_whole_raster(tmp_path: Path, fine: Path) -> None:
    noise = np.random.default_rng(1).integers(1, 4000, (21, 21)).astype(np.uint16)
    coarse = write_raster(tmp_path / "coarse.tif", noise, gsd=20, origin=(ORIGIN[0] - 10, ORIGIN[1]), names=["B11"])
    expected = np.zeros((SIDE, SIDE), np.uint16)
    with open_scene([fine, coarse]) as scene, rasterio.open(coarse) as src:
        values, _ = scene.read(whole(scene))
        grid = {"dst_crs": scene.grid.crs, "dst_transform": scene.grid.transform}
        reproject(noise, expected, src.transform, src_crs=src.crs, **grid, resampling=Resampling.bilinear)
    np.testing.assert_allclose(values[1], expected, atol=1)


def test_a_finer_raster_is_averaged(tmp_path: Path, fine: Path) -> None:
    noise = np.random.default_rng(1).random((SIDE * 2, SIDE * 2)).astype(np.float32)
    finer = write_raster(tmp_path / "finer.tif", noise, gsd=5, names=["aerial"])
    with open_scene([fine, finer]) as scene:
        values, _ = scene.read(whole(scene))
    expected = noise.reshape(SIDE, 2, SIDE, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(values[1], expected, atol=1e-5)


@settings(max_examples=25)
@given(st.data())
def test_a_window_equals_the_same_part_of_the_whole(data: st.DataObject) -> None:
    with open_scene([SAMPLE / "virginia" / "s2_10m.tif", SAMPLE / "virginia" / "s2_20m.tif"]) as scene:
        row, col = data.draw(st.integers(0, 90)), data.draw(st.integers(0, 90))
        height, width = data.draw(st.integers(1, 100 - row)), data.draw(st.integers(1, 100 - col))
        part, _ = scene.read(Window(col, row, width, height))
        full, _ = scene.read(Window(0, 0, 100, 100))
    np.testing.assert_allclose(part, full[:, row : row + height, col : col + width], atol=1)


def test_nodata_and_nan_become_nan_and_invalid_only_where_a_whole_raster_is_empty(tmp_path: Path) -> None:
    values = np.arange(1, 2 * 16 + 1, dtype=np.float32).reshape(2, 4, 4)
    values[0, 0, 0] = -9  # one band lacks a value
    values[:, 1, 1] = -9  # both do
    values[:, 2, 2] = np.nan
    path = write_raster(tmp_path / "a.tif", values, names=["B02", "B03"], nodata=-9)
    with open_scene([path]) as scene:
        read, valid = scene.read(whole(scene))
    assert np.isnan(read[0, 0, 0])
    assert valid[0, 0]
    assert np.isnan(read[:, [1, 2], [1, 2]]).all()
    assert not valid[[1, 2], [1, 2]].any()
    assert valid.sum() == 14


def test_pixels_outside_the_second_raster_are_invalid(tmp_path: Path, fine: Path) -> None:
    half = write_raster(tmp_path / "half.tif", np.full((SIDE, SIDE // 2), 5, np.uint16), names=["B11"])
    with open_scene([fine, half]) as scene:
        values, valid = scene.read(whole(scene))
    assert valid[:, : SIDE // 2].all()
    assert not valid[:, SIDE // 2 :].any()
    assert np.isnan(values[:, ~valid]).all()


def test_linear_radar_is_read_in_decibels_and_decibels_stay(tmp_path: Path) -> None:
    power = np.array([[0.01, 0.1], [1.0, 0.0]], np.float32)
    linear = write_raster(tmp_path / "linear.tif", power, names=["VV"])
    decibels = write_raster(tmp_path / "db.tif", np.array([[-20, -10], [0.4, -30]], np.float32), names=["VH"])
    with open_scene([linear, decibels]) as scene:
        values, _ = scene.read(whole(scene))
    np.testing.assert_allclose(10 ** (values[0] / 10), np.maximum(power, 1e-6), rtol=1e-4)
    np.testing.assert_allclose(values[1], [[-20, -10], [0.4, -30]], rtol=1e-6)


def test_radar_in_scaled_whole_numbers_stays_in_decibels(tmp_path: Path) -> None:
    stored = write_raster(tmp_path / "scaled.tif", np.array([[30_000, 40_000]], np.uint16), names=["VV"])
    with rasterio.open(stored, "r+") as out:
        out.scales, out.offsets = (0.001,), (-50.0,)
    with open_scene([stored]) as scene:
        values, _ = scene.read(whole(scene))
    np.testing.assert_allclose(values[0], [[-20, -10]], rtol=1e-5)


@pytest.mark.parametrize("warped", [False, True])
def test_transparent_pixels_are_invalid(tmp_path: Path, fine: Path, warped: bool) -> None:
    """Their opacity, zero, is a value, too."""
    values = np.full((4, SIDE, SIDE), 100, np.uint8)
    values[3, : SIDE // 2], values[3, SIDE // 2 :] = 0, 255
    path = write_raster(tmp_path / "rgba.tif", values, photometric="RGB", alpha="yes", names=["R", "G", "B", "A"])
    with open_scene([fine, path] if warped else [path]) as scene:
        valid = scene.select(["R", "A"], "A test").read(whole(scene))[1]
    assert not valid[: SIDE // 2].any() and valid[SIDE // 2 :].all()


def test_a_raster_of_the_whole_world_overlaps_every_place(tmp_path: Path, fine: Path) -> None:
    """Its bounds in a local system lie anywhere."""
    world = write_raster(
        tmp_path / "world.tif",
        np.ones((18, 36), np.float32),
        gsd=10,
        origin=(-180.0, 90.0),
        crs="EPSG:4326",
        names=["X"],
    )
    for crs, origin in (("EPSG:32632", (400_000, 5_300_000)), ("EPSG:3035", (4_000_000, 3_000_000))):
        place = write_raster(tmp_path / f"{origin[0]}.tif", np.ones((4, 4), np.float32), origin=origin, crs=crs)
        with open_scene([place, world]) as scene:
            values, valid = scene.read(whole(scene))
        assert valid.all() and (values[1] == 1).all()
    north = write_raster(
        tmp_path / "north.tif", np.ones((2, 36), np.float32), gsd=10, origin=(-180.0, 90.0), crs="EPSG:4326"
    )
    with pytest.raises(InputError, match="does not overlap"):
        open_scene([fine, north])


def test_band_names_come_from_descriptions_then_file_names_then_numbers(tmp_path: Path) -> None:
    one = np.ones((4, 4), np.uint16)
    files = [
        write_raster(tmp_path / "x.tif", np.stack([one, one]), names=["B03", "nir"]),
        write_raster(tmp_path / "T18_B8A.tif", one),
        write_raster(tmp_path / "patch_VV.tif", one),
        write_raster(tmp_path / "other.tif", one),
    ]
    with open_scene(files) as scene:
        assert scene.names == ["B03", "nir", "B8A", "VV", "band5"]
    with open_scene(files, ["a", "b", "c", "d", "e"]) as scene:
        assert scene.names == ["a", "b", "c", "d", "e"]
        assert scene.select(["e", "a"], "The model").names == ["e", "a"]
        with pytest.raises(InputError, match=r"The model needs the band B99.*has a, b, c, d, e"):
            scene.select(["B99"], "The model")


def test_values_come_in_the_order_in_which_bands_are_asked_for(tmp_path: Path) -> None:
    levels = {"B08": 8, "B02": 2, "B04": 4, "B12": 12, "B11": 11}
    planes = [np.full((4, 4), level, np.float32) for level in levels.values()]
    first = write_raster(tmp_path / "first.tif", np.stack(planes[:3]), names=["B08", "B02", "B04"])
    second = write_raster(tmp_path / "second.tif", np.stack(planes[3:]), names=["B12", "B11"])
    with open_scene([first, second]) as scene:
        for names in (["B02", "B04", "B08"], ["B11", "B04", "B12", "B08"], ["B12"], list(levels)):
            values, valid = scene.select(names, "The model").read(whole(scene))
            assert valid.all() and values[:, 0, 0].tolist() == [levels[n] for n in names]


def test_wrong_band_names_are_refused(tmp_path: Path, fine: Path) -> None:
    with pytest.raises(InputError, match="2 band names were given, but the scene has 1"):
        open_scene([fine], ["a", "b"])
    again = write_raster(tmp_path / "again.tif", np.ones((4, 4), np.uint16), names=["B02"])
    with pytest.raises(InputError, match="more than one band named B02"):
        open_scene([fine, again])


def test_rasters_that_cannot_be_one_scene_are_refused(tmp_path: Path, fine: Path) -> None:
    one = np.ones((8, 8), np.uint16)
    with pytest.raises(InputError, match="at least one raster"):
        open_scene([])
    with pytest.raises(InputError, match="does not exist"):
        open_scene([tmp_path / "none.tif"])
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(InputError, match=r"text\.tif is not a readable raster"):
        open_scene([tmp_path / "text.tif"])
    with pytest.raises(InputError, match="no coordinate reference system"):
        open_scene([write_raster(tmp_path / "nocrs.tif", one, crs=None)])
    with pytest.raises(InputError, match="in degrees"):
        open_scene([write_raster(tmp_path / "deg.tif", one, gsd=0.001, origin=(-75, 37), crs="EPSG:4326")])
    far = write_raster(tmp_path / "far.tif", one, origin=(600_000.0, 4_100_000.0), names=["B11"])
    with pytest.raises(InputError, match="does not overlap"):
        open_scene([fine, far])


def test_another_crs_is_warped_to_the_first(tmp_path: Path, fine: Path) -> None:
    with rasterio.open(fine) as src:
        height, width = 30, 30
        transform = rasterio.transform.from_bounds(-75.01, 37.03, -74.98, 37.06, width, height)
        values = np.full((height, width), 7, np.float32)
        path = tmp_path / "degrees.tif"
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=1,
            height=height,
            width=width,
            dtype="float32",
            crs="EPSG:4326",
            transform=transform,
        ) as out:
            out.write(values, 1)
        assert src.crs.to_epsg() == 32618
    with open_scene([fine, path]) as scene:
        read, valid = scene.read(whole(scene))
    assert valid.any()
    assert (read[1][valid] == 7).all()


@given(st.floats(0, 390), st.floats(0, 390), st.floats(1, 400), st.floats(1, 400))
def test_the_window_of_an_area_covers_it_inside_the_grid(x: float, y: float, width: float, height: float) -> None:
    grid = Grid(rasterio.CRS.from_epsg(32618), rasterio.transform.from_origin(*ORIGIN, 10, 10), SIDE, SIDE)
    left, top = ORIGIN[0] + x, ORIGIN[1] - y
    part = grid.crop(grid.window((left, top - height, left + width, top)))
    xmin, ymin, xmax, ymax = part.bounds
    gxmin, gymin, gxmax, _ = grid.bounds
    assert xmin <= left + 1e-4
    assert ymax >= top - 1e-4
    assert xmax >= min(left + width, gxmax) - 1e-4
    assert ymin <= max(top - height, gymin) + 1e-4
    assert gxmin <= xmin < xmax <= gxmax
    assert part.width <= width / 10 + 2


def test_an_area_elsewhere_is_refused(fine: Path) -> None:
    with open_scene([fine]) as scene, pytest.raises(InputError, match="does not overlap the scene"):
        scene.grid.window((0, 0, 10, 10))


def test_scale_and_offset_tags_are_applied(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "scaled.tif", np.array([[1000, 3000]], np.int16), names=["B02"])
    with rasterio.open(path, "r+") as out:
        out.scales, out.offsets = (0.0001,), (-0.1,)
    with open_scene([path]) as scene:
        np.testing.assert_allclose(scene.read(whole(scene))[0][0, 0], [0.0, 0.2], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rio-tiler/cog_scale_epsg4326.tif", "in degrees"),
        ("rasterio/corrupt.tif", "cannot be read|not a readable raster"),
    ],
)
def test_odd_files_give_one_clear_sentence(name: str, words: str) -> None:
    path = development_data("edge_cases", *name.split("/"))
    with pytest.raises(InputError, match=words), open_scene([path]) as scene:
        scene.read(whole(scene))


def test_another_planet_is_no_part_of_a_scene(fine: Path) -> None:
    path = development_data("edge_cases", "rio-tiler", "cog_nonearth.tif")
    with pytest.raises(InputError, match=r"cannot be related|does not overlap"):
        open_scene([fine, path])


def test_an_all_nodata_raster_is_all_invalid() -> None:
    path = development_data("edge_cases", "rasterio", "all-nodata.tif")
    with open_scene([path]) as scene:
        values, valid = scene.read(whole(scene))
    assert not valid.any()
    assert np.isnan(values).all()


def test_nan_nodata_is_invalid() -> None:
    path = development_data("edge_cases", "leipzig_s2", "leipzig_raster.tif")
    with open_scene([path]) as scene:
        values, valid = scene.read(whole(scene))
    assert np.isfinite(values[:, valid]).any(axis=0).all()
