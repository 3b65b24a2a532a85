"""Streaming a scene: tiles cover it, blending is seamless, rows are refined with their context, memory is bounded."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window
from small_rasters import write_raster
from torch import Tensor

from sparsevit.errors import CancelledError, ResourceError
from sparsevit.geodata.scene import open_scene
from sparsevit.mapping import streaming
from sparsevit.mapping.predict import confidence_of
from sparsevit.mapping.streaming import BatchRunner, RowBand, blending_weight, sharpened, starts, stream, sweep
from sparsevit.models.edges import REACH, adaptive_refinement
from sparsevit.reporting import Reporter

Evaluate = Callable[[Tensor, list[Window]], Tensor]
SIZES = st.integers(1, 45)
OVERLAPS = st.sampled_from([0.0, 0.25, 0.5, 0.75])


def values_of(height: int, width: int, bands: int = 2) -> np.ndarray:
    return np.random.default_rng(height * 100 + width).normal(size=(bands, height, width)).astype(np.float32)


def streamed(
    values: np.ndarray,
    evaluate: Evaluate,
    side: int = 8,
    overlap: float = 0.5,
    classes: int = 2,
    batch: int = 3,
    area: Window | None = None,
) -> list[RowBand]:
    """Every row band of a raster with nodata NaN."""
    with TemporaryDirectory() as folder:
        path = write_raster(Path(folder) / "scene.tif", values, nodata=np.nan)
        with open_scene([path]) as scene:
            area = area or Window(0, 0, scene.grid.width, scene.grid.height)
            runner = BatchRunner(evaluate, batch, Reporter())
            return list(stream(scene, area, side, overlap, classes, runner, Reporter()))


def mosaic(bands: list[RowBand], what: str = "evidence") -> np.ndarray:
    """The rows of all bands, after a check that they follow each other."""
    parts = [getattr(b, what) for b in bands]
    assert [b.row for b in bands] == [sum(len(p.valid) for p in bands[:k]) for k in range(len(bands))]
    return np.concatenate(parts, axis=-2)


def constant(tiles: Tensor, _: list[Window]) -> Tensor:
    shape = (len(tiles), 1, *tiles.shape[2:])
    return torch.cat([torch.full(shape, 0.3), torch.full(shape, 0.7)], dim=1)


def pixelwise(tiles: Tensor, _: list[Window]) -> Tensor:
    return torch.nan_to_num(tiles) * 2 + 1


# --- tiles and blending ---------------------------------------------------------------------------------------------


@given(st.integers(1, 400), st.integers(1, 64), st.data())
def test_tiles_cover_every_pixel_and_stay_inside(length: int, side: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, side))
    first = starts(length, side, stride)
    covered = np.zeros(max(length, side), bool)
    for start in first:
        covered[start : start + side] = True
    assert covered.all()
    assert first[0] == 0 and first[-1] == max(length - side, 0)
    assert (np.diff(first) > 0).all() and (np.diff(first) <= stride).all()


@given(st.integers(1, 64))
def test_blending_weights_are_positive_symmetric_and_largest_in_the_middle(side: int) -> None:
    weight = blending_weight(side)
    assert (weight > 0).all()
    np.testing.assert_allclose(weight, weight[::-1, ::-1], rtol=1e-5)
    np.testing.assert_allclose(weight, weight.T)
    assert weight.max() == pytest.approx(weight[side // 2, side // 2])


@settings(max_examples=30)
@given(SIZES, SIZES, OVERLAPS)
def test_blending_of_a_constant_is_constant_at_any_size(height: int, width: int, overlap: float) -> None:
    evidence = mosaic(streamed(values_of(height, width), constant, overlap=overlap))
    assert evidence.shape == (2, height, width)
    np.testing.assert_allclose(evidence[0], 0.3, rtol=1e-5)
    np.testing.assert_allclose(evidence[1], 0.7, rtol=1e-5)


@settings(max_examples=30)
@given(SIZES, SIZES, OVERLAPS, st.integers(1, 9))
def test_a_function_of_pixels_comes_out_as_over_the_whole_raster(
    height: int, width: int, overlap: float, batch: int
) -> None:
    values = values_of(height, width)
    bands = streamed(values, pixelwise, overlap=overlap, batch=batch)
    np.testing.assert_allclose(mosaic(bands), values * 2 + 1, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(mosaic(bands, "values"), values)
    assert mosaic(bands, "valid").all()


def test_tiles_that_agree_on_their_overlap_equal_the_whole_raster() -> None:
    values = values_of(40, 40)
    kernel = torch.full((2, 1, 3, 3), 1 / 9)

    def smooth(tiles: Tensor, _: list[Window]) -> Tensor:
        padded = torch.nn.functional.pad(tiles, (1, 1, 1, 1), mode="replicate")
        return torch.nn.functional.conv2d(padded, kernel, groups=2)

    # Weights fall to nearly nothing at the rim, where a tile lacks its neighbours: what is left is the true value.
    whole = smooth(torch.from_numpy(values)[None], [])[0].numpy()
    evidence = mosaic(streamed(values, smooth, side=16, overlap=0.75))
    np.testing.assert_allclose(evidence, whole, atol=0.05)


@given(st.integers(0, 10), st.integers(0, 10), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=20)
def test_an_area_is_the_same_part_of_the_whole(top: int, left: int, height: int, width: int) -> None:
    values = values_of(30, 30)
    bands = streamed(values, pixelwise, area=Window(left, top, width, height))
    expected = values[:, top : top + height, left : left + width] * 2 + 1
    np.testing.assert_allclose(mosaic(bands), expected, rtol=1e-4, atol=1e-5)


def test_windows_name_the_place_of_each_tile_in_the_scene() -> None:
    values = values_of(30, 30)

    def check(tiles: Tensor, windows: list[Window]) -> Tensor:
        for tile, w in zip(tiles.numpy(), windows, strict=True):
            np.testing.assert_array_equal(
                tile, values[:, w.row_off : w.row_off + w.height, w.col_off : w.col_off + w.width]
            )
        return tiles

    streamed(values, check, area=Window(3, 5, 20, 22))


# --- nodata ---------------------------------------------------------------------------------------------------------


def test_tiles_without_data_are_not_evaluated() -> None:
    values = values_of(16, 32)
    values[:, :, 16:] = np.nan
    seen: list[Window] = []

    def remember(tiles: Tensor, windows: list[Window]) -> Tensor:
        seen.extend(windows)
        assert tiles.isfinite().flatten(1).any(1).all()
        return constant(tiles, windows)

    bands = streamed(values, remember)
    assert seen and all(w.col_off < 16 for w in seen)
    np.testing.assert_array_equal(mosaic(bands, "valid"), np.isfinite(values).any(axis=0))


def test_a_raster_without_data_is_streamed_without_evaluating_anything() -> None:
    def fail(tiles: Tensor, _: list[Window]) -> Tensor:
        raise AssertionError("an empty tile was evaluated")

    bands = streamed(np.full((2, 20, 20), np.nan, np.float32), fail)
    assert not mosaic(bands, "valid").any()


@settings(max_examples=20)
@given(st.integers(1, 25), st.integers(1, 25), st.integers(0, 99))
def test_nodata_in_is_nodata_out_pixel_by_pixel(height: int, width: int, seed: int) -> None:
    values = values_of(height, width)
    holes = np.random.default_rng(seed).random((height, width)) < 0.4
    values[:, holes] = np.nan
    np.testing.assert_array_equal(mosaic(streamed(values, constant), "valid"), ~holes)


# --- rows with context ------------------------------------------------------------------------------------------------


def cut(evidence: np.ndarray, values: np.ndarray, heights: list[int]) -> list[RowBand]:
    edges = [0, *np.cumsum(heights).tolist()]
    valid = np.ones(values.shape[1:], bool)
    return [RowBand(a, evidence[:, a:b], values[:, a:b], valid[a:b]) for a, b in pairwise(edges)]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(1, 3))
def test_refining_in_bands_of_any_height_equals_refining_the_whole(heights: list[int], iterations: int) -> None:
    height, width = sum(heights), 9
    rng = np.random.default_rng(height)
    evidence = rng.dirichlet(np.ones(3), (height, width)).transpose(2, 0, 1).astype(np.float32)
    values = rng.normal(size=(2, height, width)).astype(np.float32)

    def refine(p: np.ndarray, bands: np.ndarray) -> np.ndarray:
        return adaptive_refinement(torch.from_numpy(p)[None], torch.from_numpy(bands)[None], 0.8, iterations)[0].numpy()

    bands = list(sharpened(iter(cut(evidence, values, heights)), refine, REACH * iterations))
    np.testing.assert_allclose(mosaic(bands), refine(evidence, values), atol=1e-6)
    np.testing.assert_array_equal(mosaic(bands, "values"), values)


def test_context_stays_small_however_many_thin_bands_there_are() -> None:
    heights: list[int] = []
    ones = np.ones((1, 200, 4), np.float32)

    def remember(p: np.ndarray, _: np.ndarray) -> np.ndarray:
        heights.append(p.shape[1])
        return p

    list(sharpened(iter(cut(ones, ones, [1] * 200)), remember, halo=7))
    assert max(heights) == 7 + 1 + 7


# --- stripes ----------------------------------------------------------------------------------------------------------


def positional(tiles: Tensor, _: list[Window]) -> Tensor:
    """Evidence that depends on the place in the tile, so that tiles at other places would show."""
    side = tiles.shape[-1]
    ramp = torch.arange(side * side, dtype=torch.float32).reshape(side, side) / side**2
    first = torch.sigmoid(torch.nan_to_num(tiles[:, :1]) + 4 * ramp)
    return torch.cat([first, 1 - first], dim=1)


def adaptive(p: np.ndarray, values: np.ndarray) -> np.ndarray:
    bands = torch.from_numpy(np.nan_to_num(values))[None]
    return adaptive_refinement(torch.from_numpy(p)[None], bands, 0.8)[0].numpy()


@settings(max_examples=40)
@given(st.integers(1, 120), OVERLAPS, st.integers(1, 60), st.booleans())
def test_stripes_of_any_width_come_out_as_one(width: int, overlap: float, stripe: int, refines: bool) -> None:
    values = values_of(21, width)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = write_raster(Path(folder) / "scene.tif", values, nodata=np.nan)
        results = []
        for columns in (1000, stripe):
            patch.setattr(streaming, "STRIPE_WIDTH", columns)
            out = {name: np.full((n, 21, width), np.nan, np.float32) for name, n in (("evidence", 2), ("values", 2))}
            with open_scene([path]) as scene:
                runner, area = BatchRunner(positional, 4, Reporter()), Window(0, 0, width, 21)
                more = (adaptive, REACH) if refines else ()
                for band in sweep(scene, area, 8, overlap, 2, runner, Reporter(), *more):
                    assert band.valid.all() and band.evidence.shape[1:] == band.valid.shape
                    for name, whole in out.items():
                        place = (slice(None), *band.window.toslices())
                        assert np.isnan(whole[place]).all()
                        whole[place] = getattr(band, name)
            results.append(out)
    np.testing.assert_allclose(results[1]["evidence"], results[0]["evidence"], atol=2e-6)
    np.testing.assert_array_equal(results[1]["values"], values)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_out_of_memory_halves_the_batch_and_loses_nothing() -> None:
    sizes: list[int] = []

    def small_machine(tiles: Tensor, windows: list[Window]) -> Tensor:
        sizes.append(len(tiles))
        if len(tiles) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pixelwise(tiles, windows)

    values = values_of(20, 40)
    evidence = mosaic(streamed(values, small_machine, batch=8))
    np.testing.assert_allclose(evidence, values * 2 + 1, rtol=1e-4, atol=1e-5)
    assert sizes[:3] == [8, 4, 2] and max(sizes[3:]) == 2


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_not_even_one_tile_is_a_matter_of_resources(error: Exception) -> None:
    def tiny_machine(tiles: Tensor, _: list[Window]) -> Tensor:
        raise error

    with pytest.raises(ResourceError, match="single tile"):
        streamed(values_of(16, 16), tiny_machine)


def test_other_errors_are_not_taken_for_memory() -> None:
    def broken(tiles: Tensor, _: list[Window]) -> Tensor:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        streamed(values_of(16, 16), broken)


def peak(height: int, width: int, folder: Path) -> int:
    """Most bytes of arrays at one time while a raster is streamed and refined."""
    path = write_raster(folder / "scene.tif", values_of(height, width), tiled=True, blockxsize=64, blockysize=16)
    with open_scene([path]) as scene:
        runner = BatchRunner(pixelwise, 4, Reporter())
        area = Window(0, 0, width, height)
        tracemalloc.start()
        try:
            for _ in sweep(scene, area, 16, 0.5, 2, runner, Reporter(), lambda p, _: p, REACH):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(("height", "width"), [(1600, 512), (160, 5120)])
def test_memory_follows_neither_height_nor_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, height: int, width: int
) -> None:
    monkeypatch.setattr(streaming, "STRIPE_WIDTH", 256)
    peak(64, 512, tmp_path)  # what is allocated once
    cycles = 200_000  # small objects that wait for the garbage collector
    assert peak(height, width, tmp_path) < peak(160, 1024, tmp_path) + cycles


def test_a_cancelled_run_stops_at_the_next_batch() -> None:
    class Stopped(Reporter):
        def cancelled(self) -> bool:
            return True

    runner = BatchRunner(constant, 2, Stopped())
    with pytest.raises(CancelledError):
        next(runner([Window(0, 0, 4, 4)], lambda _: torch.zeros(1, 1, 4, 4)))


# --- confidence -------------------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(0, 99))
def test_confidence_is_the_margin_between_the_best_two(classes: int, seed: int) -> None:
    p = np.random.default_rng(seed).dirichlet(np.ones(classes), (3, 4)).transpose(2, 0, 1).astype(np.float32)
    ordered = np.sort(p, axis=0)
    expected = ordered[-1] - ordered[-2] if classes > 1 else np.ones((3, 4))
    np.testing.assert_allclose(confidence_of(p), expected, atol=1e-6)
