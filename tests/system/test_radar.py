"""Sentinel-1 and Sentinel-2 together: the radar bands reach the network and change what comes out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import REFINING, REPOSITORY, TRAINING, QgisProcess

PLACE = REPOSITORY / "resources" / "sample" / "terramesh"
OPTICAL, RADAR = PLACE / "s2.tif", PLACE / "s1.tif"


@pytest.fixture(scope="module")
def mapped(qgis: QgisProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the results of the one-step algorithm on both sensors."""
    folder = tmp_path_factory.mktemp("radar")
    done = qgis.run(
        "maplandcover",
        SCENE=[OPTICAL, RADAR],
        LAYER=PLACE / "tags.gpkg",
        FIELD="classes",
        TILE_SIZE_M=320,
        BLOCK_SIZE_M=640,
        GAP_M=0,
        **TRAINING,
        **REFINING,
        LANDCOVER=folder / "landcover.tif",
        CONFIDENCE=folder / "confidence.tif",
        PSEUDOMASK=folder / "pseudomask.tif",
        TILES=folder / "tiles.gpkg",
        CLASSIFIER_MODEL=folder / "classifier.safetensors",
        MODEL=folder / "landcover.safetensors",
    )
    assert done.code == 0, done.reason
    return folder


def probabilities(qgis: QgisProcess, folder: Path, radar: Path, name: str) -> np.ndarray:
    """The class probabilities of the refined model over the place."""
    output = folder / f"{name}.tif"
    done = qgis.run(
        "predictlandcover",
        MODEL=folder / "landcover.safetensors",
        SCENE=[OPTICAL, radar],
        OUTPUT=folder / f"{name}_map.tif",
        PROBABILITIES=output,
    )
    assert done.code == 0, done.reason
    with rasterio.open(output) as raster:
        return raster.read(masked=True).filled(0)


def test_radar_changes_the_map(qgis: QgisProcess, mapped: Path) -> None:
    with rasterio.open(RADAR) as raster:
        profile, decibels = raster.profile, raster.read()
        names = raster.descriptions
    flipped = mapped / "flipped.tif"
    with rasterio.open(flipped, "w", **profile) as raster:
        raster.write(decibels[:, ::-1, ::-1])
        raster.descriptions = names
    real = probabilities(qgis, mapped, RADAR, "real")
    changed = probabilities(qgis, mapped, flipped, "changed")
    assert np.abs(real - changed).mean() > 1e-3
    assert np.array_equal(real, probabilities(qgis, mapped, RADAR, "again"))  # nothing else changes it


def test_scene_without_radar_is_refused(qgis: QgisProcess, mapped: Path) -> None:
    done = qgis.run(
        "predictlandcover", MODEL=mapped / "landcover.safetensors", SCENE=[OPTICAL], OUTPUT=mapped / "optical.tif"
    )
    assert done.code == 1
    assert "VV" in done.reason and "VH" in done.reason
