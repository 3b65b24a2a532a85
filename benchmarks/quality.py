"""How good is a map from tags? One table: the product, the published recipe, and the controls to fear.

Northern half of the development scene `virginia`: spatial blocks with a gap, drawn anew for every seed; the same tiles,
tags and seeds for all rows, scored on blocks that nothing was trained on and whose tags nobody saw. All network rows
are mapped the same way (overlapping tiles, blended, the same edge refinement).

    python benchmarks/quality.py --data ../shared/data/virginia --seeds 0 1 2 --output build/quality.json

`docs/quality.json` and `docs/quality.md` are written from such a file:

    python benchmarks/quality.py --publish build/quality.json
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import rasterio
import torch

from common.crf import Crf, mean_field
from common.development import ROOT, job, load, log_to_terminal, options_of, save
from common.page import publish
from common.picture import draw
from common.results import Scores, results_of, summary
from common.trial import GATED, WARMED_UP, WEAKTR_ABLATIONS, Trial, road_options
from sparsevit.geodata.legend import NODATA
from sparsevit.geodata.scene import open_scene
from sparsevit.geodata.tile_index import read_tile_index
from sparsevit.geodata.tile_masks import read_tile_masks
from sparsevit.models.model_file import load_model
from sparsevit.models.vit import SparseViT
from sparsevit.reporting import Reporter
from sparsevit.training.clipping import PUBLISHED, ClippingRule, clipping_rule
from sparsevit.training.refinement import RefinementSettings, epochs_of
from sparsevit.training.tiles import load_tiles
from sparsevit.weak.attention import head_maps
from sparsevit.weak.clusters import binarise, cluster_heads, fill_nearest, paint
from sparsevit.weak.naming import name_by_assignment

Row = tuple[str, str, Callable[[], Path], str]
"""Name, role, how to make the map, and which classifier its seconds include; none if that is empty."""

CRF = Crf(spread=1.5, sharpness=1.0, compatibility=40.0)
"""The best of 36 on the blocks of split seeds 3 and 8: spread 1.5 to 5, sharpness 0.25 to 1, compatibility 3 to 40."""

RECIPE = {"method": "clusters", "naming": "rank", "edges": "none", "ignore_margin": 0.0, "pseudomask_overlap": 0.0}
"""Pseudomasks of the published recipe."""
PLAIN = {"fraction_weight": 0.0, "label_smoothing": 0.0, "mask_weight": 1.0}
"""Cross-entropy on masks, and nothing that knows of tags."""

CLIPPING: dict[str, dict[str, Any]] = {
    "clipping": {},
    "clipping as published": {"start": PUBLISHED.start, "published": True},
    "clipping image by image": {"per_image": True},
}
"""Rows with gradient clipping, and how their rule differs from the product's."""


def rows(trial: Trial) -> list[Row]:
    """The rows of the table."""
    epochs = epochs_of(RefinementSettings(), RefinementSettings().rounds)  # as many as all rounds of the product
    segmenter = {"decoder": "segmenter", "classifier": GATED}
    return [
        ("majority class", "control", lambda: majority(trial), ""),
        ("per-pixel network, tags", "control", lambda: trial.network("spectral", {"spectral": 1.0}), GATED),
        ("U-Net, tags alone", "control", lambda: trial.decoder("unet_tags", None, epochs), ""),
        *cluster_rows(trial),
        ("transformer alone", "ablation", lambda: trial.network("transformer", {"vit": 1.0}), GATED),
        ("pseudomask", "default", lambda: trial.pseudomask("evidence", ignore_margin=0.0), GATED),
        *(
            (f"pseudomask, {name}", "ablation", partial(trial.pseudomask, edges, ignore_margin=0.0, edges=edges), GATED)
            for edges, name in (("superpixels", "edges by superpixels"), ("none", "no edges"))
        ),
        ("pseudomask, edges by a dense CRF", "ablation", lambda: by_crf(trial), GATED),
        ("refined map", "default", trial.refined, GATED),
        *(
            (f"refined map, {name}", "ablation", partial(trial.refined, heads, heads), heads)
            for heads, name in (("all_heads", "all heads"), ("published_share", "30 % of the heads"))
        ),
        (
            "U-Net, true masks",
            "supervised",
            lambda: trial.decoder("unet_masks", masks_of(trial, trial.truth), epochs, **PLAIN),
            "",
        ),
        # What the refinement could reach at best: its losses, with pseudomasks that are never wrong.
        (
            "refined from true masks",
            "oracle",
            lambda: trial.decoder("unet_ideal", masks_of(trial, trial.truth), epochs),
            "",
        ),
        *(
            (f"refined map, {name}", "ablation", partial(clipped, trial, name, changes), GATED)
            for name, changes in CLIPPING.items()
        ),
        ("refined map, Segmenter", "ablation", lambda: trial.refined("segmenter", decoder="segmenter"), GATED),
        (
            "Segmenter, true masks",
            "supervised",
            lambda: trial.decoder("segmenter_masks", masks_of(trial, trial.truth), epochs, **PLAIN, **segmenter),
            GATED,
        ),
        *weaktr_rows(trial),
        *warmed_up_rows(trial),
    ]


def cluster_rows(trial: Trial) -> list[Row]:
    """Clusters of attention: the published recipe, of fewer and of all heads; named better; named by an oracle."""
    named = {"classifier": "all_heads", **RECIPE, "naming": "assignment"}
    return [
        (
            "pseudomask, published recipe",
            "control",
            lambda: trial.pseudomask("recipe", "published_share", **RECIPE),
            "published_share",
        ),
        (
            "pseudomask, published recipe, all heads",
            "control",
            lambda: trial.pseudomask("recipe_all", "all_heads", **RECIPE),
            "all_heads",
        ),
        ("U-Net, published recipe", "control", lambda: published_unet(trial), "published_share"),
        (
            "pseudomask, clusters by assignment, all heads",
            "ablation",
            lambda: trial.pseudomask("named_all", **named),
            "all_heads",
        ),
        ("clusters named by the reference, all heads", "oracle", lambda: oracle_naming(trial), "all_heads"),
    ]


def weaktr_rows(trial: Trial) -> list[Row]:
    """WeakTr as published and repaired: each alone, joined with spectra, refined; and without some of the repairs."""
    out: list[Row] = []
    for network, name in (("weaktr_faithful", "WeakTr as published"), ("weaktr", "WeakTr repaired")):
        for method in ("class_tokens", "fine_cam"):
            for weight, joined_with in ((0.0, ""), (0.5, " and spectra")):
                options = {"method": method, "spectral_weight": weight, "ignore_margin": 0.0}
                make = partial(trial.pseudomask, f"{network}_{method}_{weight}", network, **options)
                out.append((f"{name}, {method}{joined_with}", "ablation", make, network))
            refined = partial(trial.refined, f"{network}_{method}_refined", network, method)
            out.append((f"{name}, {method}, refined map", "ablation", refined, network))
    for network in WEAKTR_ABLATIONS:
        make = partial(trial.pseudomask, network, network, method="fine_cam", spectral_weight=0.0, ignore_margin=0.0)
        out.append((f"WeakTr {network}, fine_cam", "ablation", make, network))
    return out


def warmed_up_rows(trial: Trial) -> list[Row]:
    """The road of the product with a transformer that has seen the whole scene before any tag."""
    out: list[Row] = []
    for name, make in (
        ("transformer alone", partial(trial.network, "warm_transformer", {"vit": 1.0})),
        ("pseudomask", partial(trial.pseudomask, "warm_evidence", ignore_margin=0.0)),
        ("refined map", partial(trial.refined, "warm_refined")),
    ):
        out.append((f"{name}, warmed up", "ablation", partial(make, classifier=WARMED_UP), WARMED_UP))
    return out


def table(trial: Trial, wanted: list[str]) -> tuple[dict[str, Scores], dict[str, Path]]:
    """Scores and rasters of all rows for one seed, or only of those wanted."""
    out: dict[str, Scores] = {}
    rasters: dict[str, Path] = {}
    for name, role, make, classifier in rows(trial):
        if wanted and name not in wanted:
            continue
        if classifier:
            trial.classifier(classifier)
        begun = time.monotonic()
        raster = rasters[name] = make()
        seconds = time.monotonic() - begun + trial.seconds.get(classifier, 0)
        out[name] = {"role": role, **trial.scores(raster), "seconds": round(seconds, 1)}
        logging.info("seed %d  %-46s %s", trial.seed, name, out[name])
    return out, rasters


def published_unet(trial: Trial) -> Path:
    """The published system: a U-Net on the recipe's pseudomasks, another one on its map; neither guarded nor joined."""
    settings = RefinementSettings()
    raster = trial.pseudomask("recipe_masks", "published_share", tiles=trial.tiles, **RECIPE)
    for number in range(1, settings.rounds + 1):
        epochs = epochs_of(settings, number) - epochs_of(settings, number - 1)
        raster = trial.decoder(f"published_{number}", masks_of(trial, raster), epochs, **PLAIN)
    return raster


def majority(trial: Trial) -> Path:
    """A raster of the class that most training tiles have."""
    code = trial.scheme.codes[int((trial.data.train.tags == 1).sum(0).argmax())]
    output = trial.folder / "majority.tif"
    with rasterio.open(trial.truth) as src:
        profile = src.profile
    with rasterio.open(output, "w", **profile) as out:
        out.write(np.full((1, profile["height"], profile["width"]), code, np.uint8))
    return output


def clipped(trial: Trial, name: str, changes: dict[str, Any]) -> Path:
    """The refined map with gradient clipping by another rule than the product's."""

    def rule(*shape: int) -> ClippingRule:
        return replace(clipping_rule(*shape), **changes)

    with mock.patch("sparsevit.training.refinement.clipping_rule", rule):
        return trial.refined(name, clip=True)


@torch.inference_mode()
def oracle_naming(trial: Trial) -> Path:
    """A raster of the test tiles by clusters of attention that the reference names, as well as one class each can."""
    model, _ = load_model(trial.classifier("all_heads"))
    assert isinstance(model.vit, SparseViT)
    grid, index = model.vit.config.grid, read_tile_index(trial.tiles).in_split("test")
    data = load_tiles(index, trial.data.bands, Reporter())
    table = {code: k for k, code in enumerate(trial.scheme.codes)}
    truth = read_tile_masks(index, trial.scene, lambda _: trial.truth, table, "reference")
    output = trial.folder / "oracle.tif"
    with rasterio.open(trial.truth) as src:
        profile = src.profile | {"nodata": NODATA}
    with rasterio.open(output, "w", **profile) as out:
        for i, window in enumerate(index.windows()):
            attention = model.vit(model.normalise(data.batch(torch.tensor([i]))), need_attention=True).attention
            assert attention is not None
            maps = head_maps(attention, grid, truth.shape[-1])[0].numpy()
            one_hot = (truth[i] == np.arange(len(table))[:, None, None]).astype(np.float32)
            classes = np.flatnonzero(one_hot.mean(axis=(1, 2)) >= trial.data.train.presence_threshold)
            mask = np.full(truth[i].shape, classes[0] if len(classes) else -1)
            if len(classes) > 1:
                foreground, strength = binarise(cluster_heads(maps, len(classes)))
                mask = fill_nearest(paint(foreground, strength, name_by_assignment(foreground, one_hot, classes)))
            codes = np.where(mask < 0, NODATA, np.array(trial.scheme.codes)[mask])
            out.write(codes.astype(np.uint8), 1, window=window)
    return output


@torch.inference_mode()
def by_crf(trial: Trial) -> Path:
    """The pseudomask with a dense CRF over all bands in place of the product's edges."""
    classifier, output = trial.classifier(), trial.folder / "crf.tif"
    evidence = trial.folder / "class_evidence.tif"
    area = {"scene": trial.scene, "extent": trial.extent}
    job("predict", model=classifier, output=output, probabilities=evidence, edges="none", **area)
    model, card = load_model(classifier)
    with open_scene(trial.scene) as scene:
        values, _ = scene.select(card.bands, "The model").read(scene.grid.window(trial.extent))
    bands = model.normalise(torch.from_numpy(values)[None])[0]
    with rasterio.open(evidence) as src:
        best = mean_field(torch.from_numpy(src.read()), bands, CRF).argmax(0)
    with rasterio.open(output, "r+") as out:
        out.write(np.array(trial.scheme.codes, np.uint8)[best.numpy()], 1)
    return output


def masks_of(trial: Trial, raster: Path) -> torch.Tensor:
    """Masks of the training tiles `[N, H, W]` in a class raster, -1 where unlabelled."""
    table = {code: k for k, code in enumerate(trial.scheme.codes)}
    return torch.from_numpy(read_tile_masks(trial.data.train_index, trial.scene, lambda _: raster, table, "raster"))


def main() -> None:
    """Run the table."""
    parser = options_of(__doc__, ROOT / "build/quality.json")
    road_options(parser)
    parser.add_argument("--picture", type=Path, help="also draw the maps of the first seed (.png)")
    options = parser.parse_args()
    if options.publish:
        publish(load(options.publish))
        return
    log_to_terminal()
    tables, tiles = [], []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory(prefix="sparsevit-quality-") as folder:
            trial = Trial(options.data, Path(folder), seed, options.split_seed, options.epochs)
            scores, rasters = table(trial, options.rows)
            tables.append(scores)
            tiles.append(trial.tile_counts())
            if options.picture and seed == options.seeds[0]:
                draw(trial, rasters, options.picture)
        save(results_of(options, tiles, tables), options.output)
    print(f"\n{'method':46s} {'role':11s} {'mIoU':>15s} {'OA':>6s} {'AA':>6s} {'s':>6s}")
    for row in summary(tables):
        miou = f"{row['miou_mean']:.3f} ± {row['miou_sd']:.3f}"
        rest = f"{row['oa_mean']:6.3f} {row['aa_mean']:6.3f} {row['seconds']:6.0f}"
        print(f"{row['name']:46s} {row['role']:11s} {miou:>15s} {rest}")


if __name__ == "__main__":
    main()
