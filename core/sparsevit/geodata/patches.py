"""Folders of patches as benchmark sets publish them: the DFC2020/SEN12MS and the BigEarthNet layouts."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import shapely
from rasterio.warp import transform_geom

from sparsevit.errors import InputError
from sparsevit.geodata.scene import Grid, open_raster, open_scene
from sparsevit.geodata.tile_index import TileIndex
from sparsevit.geodata.tiling import TilingSettings, split_by_blocks
from sparsevit.reporting import Reporter

S2_BANDS = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"]
S1_BANDS = ["VV", "VH"]
PUBLISHED_SPLIT = {"validation": "train", "test": "test"}
"""DFC2020: the contest's 986 'validation' patches are trained on, its 5128 'test' patches are tested on."""
LABEL_SEPARATOR = " | "
"""Class names of BigEarthNet contain commas."""
DFC_NAME = re.compile(r"(?P<rois>ROIs\d+_(?P<season>[A-Za-z]+))_s2_(?P<scene>[A-Za-z0-9]+)_p(?P<number>\d+)\.tif$")
BEN_ORDER = ["B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09", "B10"]
"""Fine bands first: the first file gives the grid."""


@dataclass(frozen=True)
class Patch:
    """One patch: its name, its rasters (the first gives the grid), its split if published, and columns of its own."""

    name: str
    files: list[Path]
    split: str | None = None
    columns: dict[str, str | None] = field(default_factory=dict)


def index_patches(
    folder: Path, layout: str, band_names: list[str], settings: TilingSettings, reporter: Reporter
) -> tuple[TileIndex, int]:
    """Describe a folder of patches as a tile index with one feature per patch.

    Args:
        folder: Folder, searched with its subfolders.
        layout: `dfc2020` or `bigearthnet`.
        band_names: Names of all bands of a patch; those of the layout if empty.
        settings: How patches without a published split are split: by spatial blocks, in each UTM zone's own plane.
        reporter: Progress.

    Returns:
        The index, with `files` (JSON list) per patch; `reference` where the set has label rasters; `labels` where it
        has image-level labels. And the number of patches left out because they are mostly nodata.

    Raises:
        InputError: The folder has no patch in this layout, a file of a patch is missing, or bands are unknown.
    """
    if not folder.is_dir():
        raise InputError(f"The folder {folder} does not exist.", "folder", "Check the path.")
    patches = _dfc_patches(folder) if layout == "dfc2020" else _bigearthnet_patches(folder, reporter)
    grids, valid = [], np.empty(len(patches))
    for i, patch in enumerate(patches):
        reporter.check()
        grid, valid[i] = _grid_and_valid_share(patch)
        grids.append(grid)
        reporter.progress((i + 1) / len(patches), "reading patches")
    keep = np.flatnonzero(valid >= max(settings.min_valid, 1e-9))
    if not len(keep):
        raise InputError(
            f"No patch of {folder} has {settings.min_valid:.0%} valid pixels.", "min_valid", "Lower 'min_valid'."
        )
    patches, grids = [patches[i] for i in keep], [grids[i] for i in keep]
    names = band_names or _band_names(patches[0], layout)
    frame = _frame(patches, grids, valid[keep], settings)
    return TileIndex(frame, [], names, grids[0].width * grids[0].gsd), len(valid) - len(keep)


def _dfc_patches(folder: Path) -> list[Patch]:
    """`ROIs…_<season>/s2_<scene>/ROIs…_<season>_s2_<scene>_p<number>.tif`, with `s1`, `lc` and `dfc` beside `s2`."""
    found = []
    for path in sorted(folder.rglob("*_s2_*_p*.tif")):
        match = DFC_NAME.match(path.name)
        if match:
            found.append((path, match))
    if not found:
        raise InputError(
            f"{folder} has no patches in the layout 'dfc2020'.",
            "folder",
            "It needs files such as ROIs0000_validation/s2_validation/ROIs0000_validation_s2_validation_p0.tif.",
        )
    has = {sensor: any(_sibling(p, sensor).exists() for p, _ in found) for sensor in ("s1", "dfc", "lc")}
    patches = []
    for path, match in found:
        others = {sensor: _sibling(path, sensor) for sensor, there in has.items() if there}
        missing = [p for p in others.values() if not p.exists()]
        if missing:
            raise InputError(
                f"{missing[0]} is missing; other patches of {folder} have this file.",
                "folder",
                "Add it, or remove the patch.",
            )
        labels: dict[str, str] = {kind: str(others[kind].resolve()) for kind in ("dfc", "lc") if kind in others}
        columns: dict[str, str | None] = {**labels, "reference": next(iter(labels.values()))} if labels else {}
        name = f"{match['rois']}_{match['scene']}_p{match['number']}"
        files = [path, others["s1"]] if "s1" in others else [path]
        patches.append(Patch(name, files, PUBLISHED_SPLIT.get(match["season"].lower()), columns))
    return patches


def _sibling(path: Path, sensor: str) -> Path:
    folder = path.parent.parent / re.sub(r"^s2", sensor, path.parent.name)
    return folder / path.name.replace("_s2_", f"_{sensor}_", 1)


def _bigearthnet_patches(folder: Path, reporter: Reporter) -> list[Patch]:
    """One folder per patch with single-band files; labels as `…_labels_metadata.json` or `…_reference_map.tif`."""
    homes = sorted({path.parent for path in folder.rglob("*_B02.tif")})
    if not homes:
        raise InputError(
            f"{folder} has no patches in the layout 'bigearthnet'.",
            "folder",
            "It needs one folder per patch with files such as S2A_…_87_48/S2A_…_87_48_B02.tif.",
        )
    radar = {path.parent for path in folder.rglob("*_VV.tif")}
    partner = _radar_partners(homes, radar) if radar else {}
    if radar and not partner:
        reporter.log(
            f"No Sentinel-1 patch of {folder} belongs to a Sentinel-2 patch: Sentinel-2 alone is used.", "warning"
        )
    maps = {path.name: path for path in folder.rglob("*_reference_map.tif")}
    patches = []
    for home in homes:
        bands = [home / f"{home.name}_{b}.tif" for b in BEN_ORDER]
        bands = [b for b in bands if b.exists()]
        if partner:
            if home not in partner:
                raise InputError(
                    f"{home} has no Sentinel-1 patch; other patches of {folder} have one.",
                    "folder",
                    "Add it, or leave Sentinel-1 out of the folder.",
                )
            bands += [partner[home] / f"{partner[home].name}_{b}.tif" for b in S1_BANDS]
        reference = maps.get(f"{home.name}_reference_map.tif")
        columns = {"labels": _labels(home), "reference": str(reference.resolve()) if reference else None}
        patches.append(Patch(home.name, bands, None, columns))
    used = {key for patch in patches for key, value in patch.columns.items() if value is not None}
    return [Patch(p.name, p.files, p.split, {k: p.columns[k] for k in sorted(used)}) for p in patches]


def _labels(home: Path) -> str | None:
    labels = _metadata(home).get("labels")
    return LABEL_SEPARATOR.join(map(str, labels)) if labels else None


def _metadata(home: Path) -> dict[str, Any]:
    path = home / f"{home.name}_labels_metadata.json"
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise InputError(f"{path} cannot be read ({err}).", "folder", "Restore the file or remove the patch.") from err
    return data if isinstance(data, dict) else {}


def _radar_partners(optical: list[Path], radar: set[Path]) -> dict[Path, Path]:
    """The Sentinel-1 folder of each Sentinel-2 folder.

    Its metadata name it; where they do not, it is the one of the same footprint and the nearest day.
    """
    by_name = {home.name: home for home in optical}
    partners, unnamed = {}, []
    for home in sorted(radar):
        named = _metadata(home).get("corresponding_s2_patch")
        if named in by_name:
            partners[by_name[str(named)]] = home
        elif named is None:
            unnamed.append(home)
    footprints: dict[tuple[str, ...], list[Path]] = {}
    for home in unnamed:
        footprints.setdefault(_footprint_key(home, "VV"), []).append(home)
    for home in optical if footprints else []:
        candidates = footprints.get(_footprint_key(home, "B02"), [])
        if home not in partners and candidates:
            partners[home] = min(candidates, key=lambda c: abs(_day(c) - _day(home)))
    return partners


def _footprint_key(home: Path, band: str) -> tuple[str, ...]:
    with open_raster(home / f"{home.name}_{band}.tif", "folder") as src:
        return (str(src.crs), *(f"{v:.0f}" for v in src.bounds))


def _day(home: Path) -> int:
    """Days since year 0, roughly; enough to tell which of two dates is nearer."""
    match = re.search(r"_(\d{4})(\d{2})(\d{2})T", home.name)
    year, month, day = (int(v) for v in match.groups()) if match else (0, 0, 0)
    return 372 * year + 31 * month + day


def _grid_and_valid_share(patch: Patch) -> tuple[Grid, float]:
    with open_raster(patch.files[0], "folder") as src:
        if src.crs is None or not src.crs.is_projected:
            raise InputError(
                f"{patch.files[0]} has no projected coordinate reference system.", "folder", "Assign or reproject it."
            )
        share = 1.0 if src.nodata is None else float((src.read_masks(1) > 0).mean())
        return Grid(src.crs, src.transform, src.width, src.height), share


def _band_names(patch: Patch, layout: str) -> list[str]:
    """Names of a patch's bands; the layout's order where the files carry none."""
    if layout == "bigearthnet":
        return [p.stem.rsplit("_", 1)[1] for p in patch.files]
    with open_raster(patch.files[0], "folder") as optical:
        names = [d for d in optical.descriptions if d]
        if len(names) != optical.count:
            names = S2_BANDS if optical.count == len(S2_BANDS) else []
    if not names:
        raise InputError(
            f"{patch.files[0]} has other bands than the 13 of Sentinel-2.", "band_names", "Name all bands of a patch."
        )
    names = names + S1_BANDS * (len(patch.files) > 1)
    with open_scene(patch.files, names):  # refuses a patch whose number of bands differs
        return names


def _frame(
    patches: list[Patch], grids: list[Grid], valid: npt.NDArray[np.float64], settings: TilingSettings
) -> geopandas.GeoDataFrame:
    columns: dict[str, Any] = {
        "tile_id": np.arange(len(patches), dtype=np.int32),
        "patch": [p.name for p in patches],
        "row": np.int32(0),
        "col": np.int32(0),
        "height": np.array([g.height for g in grids], dtype=np.int32),
        "width": np.array([g.width for g in grids], dtype=np.int32),
        "valid": np.round(valid, 4),
        "split": _splits(patches, grids, settings),
        "files": [json.dumps([str(f.resolve()) for f in p.files]) for p in patches],
    }
    for name in patches[0].columns:
        columns[name] = [p.columns[name] for p in patches]
    crs = grids[0].crs if all(g.crs == grids[0].crs for g in grids) else "EPSG:4326"
    boxes: list[shapely.Geometry] = [shapely.box(*g.bounds) for g in grids]
    if crs == "EPSG:4326":
        boxes = [shapely.geometry.shape(transform_geom(g.crs, crs, b)) for g, b in zip(grids, boxes, strict=True)]
    return geopandas.GeoDataFrame(columns, geometry=boxes, crs=crs if isinstance(crs, str) else crs.to_wkt())


def _splits(patches: list[Patch], grids: list[Grid], settings: TilingSettings) -> npt.NDArray[np.object_]:
    """The published splits; spatial blocks for the others, with the zones laid far apart from each other."""
    splits = np.array([p.split for p in patches], dtype=object)
    free = [i for i, split in enumerate(splits) if split is None]
    if not free:
        return splits
    zones = {text: k for k, text in enumerate(sorted({str(grids[i].crs) for i in free}))}
    far = settings.block_size_m * np.ceil(1e9 / settings.block_size_m)
    corners = [(grids[i].bounds[0] + far * zones[str(grids[i].crs)], -grids[i].bounds[3]) for i in free]
    side = max(grids[i].width * grids[i].gsd for i in free)
    splits[free] = split_by_blocks(np.array(corners), side, settings)
    return splits
