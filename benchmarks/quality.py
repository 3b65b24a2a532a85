"""How good is a map from tags? One table: the product, the published recipe, and the controls to fear.

Northern half of the development scene `virginia`: spatial blocks with a gap, the same tiles, tags and seeds for all
rows, scored on blocks that nothing was trained on and whose tags nobody saw. All network rows are mapped the same
way (overlapping tiles, blended, the same edge refinement).

    python benchmarks/quality.py --data ../shared/data/virginia --seeds 0 1 2 --output build/quality.json

`docs/quality.json` and `docs/quality.md` are written from such a file:

    python benchmarks/quality.py --publish build/quality.json
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch

from sparsevit.assessment.accuracy import accuracy, count_pairs
from sparsevit.geodata.categorical import categories_on, translate
from sparsevit.geodata.legend import NODATA, load_scheme
from sparsevit.geodata.scene import open_scene
from sparsevit.geodata.tile_index import TileIndex, read_tile_index
from sparsevit.geodata.tile_masks import read_tile_masks
from sparsevit.jobs import get_job
from sparsevit.jobs.base import Result
from sparsevit.models.hardware import HardwareSettings
from sparsevit.models.landcover import LandCoverModel
from sparsevit.models.model_file import load_model, save_model
from sparsevit.models.vit import SparseViT
from sparsevit.reporting import Reporter
from sparsevit.training.classifier import ClassifierSettings
from sparsevit.training.loop import TrainingSettings, make_fabric
from sparsevit.training.refinement import RefinementSettings, epochs_of, joined, train_decoder
from sparsevit.training.tagged import load_training_data
from sparsevit.training.tiles import load_tiles
from sparsevit.weak.attention import head_maps
from sparsevit.weak.clusters import binarise, cluster_heads, fill_nearest, paint
from sparsevit.weak.naming import name_by_assignment

NORTH_ROWS = 1024
SPLIT_SEED = 3
"""Settings were chosen on the blocks of split seed 0; of those that this one holds out, 7 in 8 were not among them."""
SEEN_SHARE = 0.002
"""Classes with a smaller share of the scored pixels do not count: their IoU is noise."""

ROOT = Path(__file__).resolve().parents[1]
SCHEME = ROOT / "resources/schemes/dfc2020.json"
DOCS = ROOT / "docs"
SETTING = ("split_seed", "epochs", "tiles", "threads")
"""What has to be the same in all results of one table."""
PAGE = """# How good is a map from tags?

Written by `benchmarks/quality.py --publish` from `quality.json` beside it; do not edit.

Northern half of the development scene `virginia` (Sentinel-2, ten bands at 10 m), classes of DFC2020. Spatial blocks
with a gap: {tiles} tiles of 640 m (blocks of split seed {split}; settings were chosen on those of split seed 0).
All rows learn from the same tiles, and all but the supervised ones from their tags alone: which classes cover at least
a tenth of a tile. Scored on the test blocks, from which nothing was learned and whose tags nobody saw; classes below
0.2 % of the pixels do not count. The maps of all networks are drawn the same way: overlapping tiles, blended, with the
same edge refinement. Mean ± standard deviation over {seeds} seeds; the blocks are the same for all of them.

{table}

{roles}

Seconds are those of {threads}, and include the training of the classifier where a row needs it. The published recipe
names clusters of attention by the rank of their strength, without edge refinement and blending. The reference is the
output of a published model on the same image, not ground truth.
"""
ROLES = {
    "control": "what the product has to beat",
    "default": "what users get",
    "supervised": "trained on the full masks of the same tiles, the upper bound",
    "oracle": "told by the reference what it cannot know",
    "ablation": "parts and options",
}


class Trial:
    """One seed: the shared tiles, the classifier trained on their tags, and the maps made from both.

    Args:
        data: Folder of the development scene.
        folder: Folder for all that is written.
        seed: Of everything random but the blocks.
        split_seed: Of the blocks.
        epochs: Scale of all epochs.
        retag: Changes the tagged tile index as users might; it stays as it is if left out.
        tiling: Settings of the tiles beside the split.
    """

    def __init__(
        self,
        data: Path,
        folder: Path,
        seed: int,
        split_seed: int,
        epochs: float,
        retag: Callable[[TileIndex], TileIndex] | None = None,
        **tiling: Any,
    ) -> None:
        self.folder, self.seed, self.epochs = folder, seed, epochs
        self.scene = [data / "s2_l1c_10m.tif", data / "s2_l1c_20m.tif"]
        self.truth = data / "label_dfc_north.tif"
        self.tiles = folder / "tiles.gpkg"
        with rasterio.open(self.scene[0]) as src:
            t = src.transform
            self.extent = (t.c, t.f + NORTH_ROWS * t.e, t.c + src.width * t.a, t.f)
        split = {"validation_share": 0.15, "test_share": 0.25, "split_seed": split_seed}
        self.job("tiles", scene=self.scene, extent=self.extent, output=self.tiles, **split, **tiling)
        self.job("tag", tiles=self.tiles, scheme=SCHEME, source="raster", raster=self.truth)
        if retag:
            retag(read_tile_index(self.tiles)).write(self.tiles)
        self.data = load_training_data(read_tile_index(self.tiles), [], [], [], Reporter())
        self.scheme = self.data.scheme
        self.classifier = folder / "classifier.safetensors"
        phases = ("epochs", "gate_epochs", "finetune_epochs", "spectral_epochs")
        scaled = {name: self.scaled(getattr(ClassifierSettings(), name)) for name in phases}
        begun = time.monotonic()
        self.job("train", tiles=self.tiles, output=self.classifier, seed=seed, controls=False, **scaled)
        self.seconds = time.monotonic() - begun
        self.model, self.card = load_model(self.classifier)

    def unpruned(self) -> Path:
        """The classifier with all heads; trained once.

        The published recipe reads the last block, of which a small head budget may leave nothing.
        """
        path = self.folder / "unpruned.safetensors"
        if not path.exists():
            whole = {"epochs": self.scaled(ClassifierSettings().epochs), "spectral_epochs": 1, "heads_kept": 1.0}
            self.job("train", tiles=self.tiles, output=path, seed=self.seed, controls=False, **whole)
        return path

    def tile_counts(self) -> dict[str, int]:
        """Number of tiles in each split."""
        splits = read_tile_index(self.tiles).frame["split"].value_counts()
        return {name: int(splits[name]) for name in ("train", "validation", "test")}

    def job(self, name: str, **params: object) -> Result:
        """Run a job of the engine."""
        return get_job(name).execute(params, Reporter())

    def scaled(self, count: int) -> int:
        """Epochs, shortened for a trial run."""
        return max(round(count * self.epochs), 1)

    def scores(self, raster: Path) -> dict[str, float]:
        """Scores of a class raster on the test blocks; unlabelled pixels count as wrong."""
        index = read_tile_index(self.tiles).in_split("test")
        # All classes of the scheme: what no tile is tagged with is missed, not left out.
        table = {code: k for k, code in enumerate(load_scheme(SCHEME).codes)}
        classes = len(table)
        confusion = np.zeros((classes + 1, classes + 1), np.int64)
        with (
            open_scene(self.scene) as scene,
            categories_on(raster, scene.grid, "map") as mapped,
            categories_on(self.truth, scene.grid, "reference") as truth,
        ):
            for window in index.windows():
                (m, m_valid), (r, r_valid) = mapped(window), truth(window)
                m, r = translate(np.where(m_valid, m, -1), table, classes), translate(r, table, -1)
                known = r_valid & (r >= 0)
                confusion += count_pairs(m[known], r[known], classes + 1)
        result = accuracy(confusion)
        seen = confusion.sum(axis=0) > SEEN_SHARE * confusion.sum()  # columns are the reference
        return {
            "miou": float(np.nanmean(result.iou[seen])),
            "oa": float(result.overall),
            "aa": float(np.nanmean(result.recall[seen])),
        }

    def predict(self, model: Path, name: str) -> Path:
        """Map the north with a saved model."""
        output = self.folder / f"{name}.tif"
        self.job("predict", model=model, scene=self.scene, extent=self.extent, output=output)
        return output

    def network(self, name: str, weights: dict[str, float]) -> Path:
        """Map with some of the classifier's networks."""
        view = LandCoverModel(replace(self.model.architecture, weights=weights))
        view.load_state_dict(self.model.state_dict())
        return self.mapped(name, view)

    def mapped(self, name: str, model: LandCoverModel) -> Path:
        """Map with a model."""
        path = self.folder / f"{name}.safetensors"
        save_model(path, model, self.card)
        return self.predict(path, name)

    def decoder(self, name: str, masks: torch.Tensor | None, epochs: int, **settings: Any) -> Path:
        """Map with a segmentation network trained on masks, or on the tags alone."""
        refinement = RefinementSettings(refine_epochs=self.scaled(epochs), **settings)
        training, fabric = TrainingSettings(seed=self.seed), make_fabric(HardwareSettings())
        network = train_decoder(self.model, refinement, self.data.train, masks, training, fabric, 1, Reporter())
        view = copy.deepcopy(self.model)
        setattr(view, refinement.decoder, network)
        return self.mapped(name, joined(view, refinement, {}, 1.0))

    def pseudomask(self, model: Path, name: str, **options: object) -> Path:
        """The pseudomask of the whole north, without any tags."""
        output = self.folder / f"{name}.tif"
        self.job("pseudomask", model=model, output=output, scene=self.scene, extent=self.extent, **options)
        return output

    def weaktr(self, network: str) -> Path:
        """The classifier with class tokens; trained once."""
        path = self.folder / f"{network}.safetensors"
        if not path.exists():
            phases = ("epochs", "gate_epochs", "finetune_epochs", "spectral_epochs")
            scaled = {name: self.scaled(getattr(ClassifierSettings(), name)) for name in phases}
            options = {"network": network, "controls": False, "seed": self.seed}
            self.job("train", tiles=self.tiles, output=path, **options, **scaled)
        return path

    def refined(
        self, name: str = "refined", classifier: Path | None = None, method: str = "evidence", **settings: Any
    ) -> Path:
        """The product: masks of the training tiles restricted to their tags, rounds of refinement, the map."""
        classifier = classifier or self.classifier
        masks, output = self.folder / f"{name}_masks.tif", self.folder / f"{name}_model.safetensors"
        self.job("pseudomask", model=classifier, tiles=self.tiles, extent=self.extent, output=masks, method=method)
        files = {"tiles": self.tiles, "classifier": classifier, "pseudomask": masks, "output": output}
        epochs = self.scaled(RefinementSettings().refine_epochs)
        result = self.job("refine", **files, refine_epochs=epochs, seed=self.seed, **settings)
        logging.info("%s", result.model_dump_json())
        return self.predict(output, name)


Row = tuple[str, str, Callable[[], Path], bool]
"""Name, role, how to make the map, and whether its seconds include the training of the classifier."""


def rows(trial: Trial) -> list[Row]:
    """The rows of the table."""
    recipe = {"method": "clusters", "naming": "rank", "edges": "none", "ignore_margin": 0.0, "pseudomask_overlap": 0.0}
    named = recipe | {"naming": "assignment"}
    epochs = epochs_of(RefinementSettings(), RefinementSettings().rounds)  # as many as all rounds of the product
    supervised = {"fraction_weight": 0.0, "label_smoothing": 0.0, "mask_weight": 1.0}
    return [
        ("majority class", "control", lambda: majority(trial), False),
        ("per-pixel network, tags", "control", lambda: trial.network("spectral", {"spectral": 1.0}), True),
        ("U-Net, tags alone", "control", lambda: trial.decoder("unet_tags", None, epochs), False),
        (
            "pseudomask, published recipe",
            "control",
            lambda: trial.pseudomask(trial.classifier, "recipe", **recipe),
            True,
        ),
        (
            "pseudomask, published recipe, all heads",
            "control",
            lambda: trial.pseudomask(trial.unpruned(), "recipe_all", **recipe),
            True,
        ),
        (
            "pseudomask, clusters by assignment, all heads",
            "ablation",
            lambda: trial.pseudomask(trial.unpruned(), "named_all", **named),
            True,
        ),
        ("clusters named by the reference, all heads", "oracle", lambda: oracle_naming(trial), True),
        ("transformer alone", "ablation", lambda: trial.network("transformer", {"vit": 1.0}), True),
        ("pseudomask", "default", lambda: trial.pseudomask(trial.classifier, "evidence", ignore_margin=0.0), True),
        ("refined map", "default", trial.refined, True),
        (
            "U-Net, true masks",
            "supervised",
            lambda: trial.decoder("unet_masks", true_masks(trial), epochs, **supervised),
            False,
        ),
        ("refined map, clipping", "ablation", lambda: trial.refined("clipped", clip=True), True),
        ("refined map, Segmenter", "ablation", lambda: trial.refined("segmenter", decoder="segmenter"), True),
        (
            "Segmenter, true masks",
            "supervised",
            lambda: trial.decoder("segmenter_masks", true_masks(trial), epochs, **supervised, decoder="segmenter"),
            True,
        ),
        *weaktr_rows(trial),
    ]


def weaktr_rows(trial: Trial) -> list[Row]:
    """WeakTr as published and repaired, each alone and joined with spectra, and the map refined from its masks."""
    out: list[Row] = []
    for network, name in (("weaktr_faithful", "WeakTr as published"), ("weaktr", "WeakTr repaired")):
        for method in ("class_tokens", "fine_cam"):
            for weight, joined_with in ((0.0, ""), (0.5, " and spectra")):
                options = {"method": method, "spectral_weight": weight, "ignore_margin": 0.0}
                file = f"{network}_{method}_{weight}"
                make = partial(_weaktr_mask, trial, network, file, options)
                out.append((f"{name}, {method}{joined_with}", "ablation", make, True))
        refined = partial(_weaktr_refined, trial, network)
        out.append((f"{name}, refined map", "ablation", refined, True))
    return out


def _weaktr_mask(trial: Trial, network: str, file: str, options: dict[str, Any]) -> Path:
    return trial.pseudomask(trial.weaktr(network), file, **options)


def _weaktr_refined(trial: Trial, network: str) -> Path:
    return trial.refined(f"{network}_refined", trial.weaktr(network), "fine_cam")


def table(trial: Trial, wanted: list[str]) -> dict[str, dict[str, float | str]]:
    """All rows for one seed, or only those wanted."""
    out: dict[str, dict[str, float | str]] = {}
    for name, role, make, needs_classifier in rows(trial):
        if wanted and name not in wanted:
            continue
        begun = time.monotonic()
        raster = make()
        seconds = time.monotonic() - begun + (trial.seconds if needs_classifier else 0)
        out[name] = {"role": role, **trial.scores(raster), "seconds": round(seconds, 1)}
        logging.info("seed %d  %-46s %s", trial.seed, name, out[name])
    return out


def majority(trial: Trial) -> Path:
    """A raster of the class that most training tiles have."""
    code = trial.scheme.codes[int((trial.data.train.tags == 1).sum(0).argmax())]
    output = trial.folder / "majority.tif"
    with rasterio.open(trial.truth) as src:
        profile = src.profile
    with rasterio.open(output, "w", **profile) as out:
        out.write(np.full((1, profile["height"], profile["width"]), code, np.uint8))
    return output


@torch.inference_mode()
def oracle_naming(trial: Trial) -> Path:
    """A raster of the test tiles by clusters of attention that the reference names, as well as one class each can."""
    model, _ = load_model(trial.unpruned())
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


def true_masks(trial: Trial) -> torch.Tensor:
    """Reference masks of the training tiles `[N, H, W]`, -1 where unlabelled."""
    table = {code: k for k, code in enumerate(trial.scheme.codes)}
    return torch.from_numpy(
        read_tile_masks(trial.data.train_index, trial.scene, lambda _: trial.truth, table, "reference")
    )


def summary(seeds: list[dict[str, dict[str, float | str]]]) -> list[dict[str, float | str]]:
    """Mean and standard deviation over seeds."""
    out: list[dict[str, float | str]] = []
    for name in seeds[0]:
        entry: dict[str, float | str] = {"name": name, "role": seeds[0][name]["role"]}
        for measure in ("miou", "oa", "aa", "seconds"):
            values = np.array([float(seed[name][measure]) for seed in seeds])
            entry[f"{measure}_mean"] = round(float(values.mean()), 4)
            entry[f"{measure}_sd"] = round(float(values.std(ddof=1)) if len(values) > 1 else 0.0, 4)
        out.append(entry)
    return out


def publish(parts: list[dict[str, Any]]) -> None:
    """Write the table into the documentation; seeds and rows may have been run apart."""
    if any(part[name] != parts[0][name] for part in parts for name in SETTING):
        raise SystemExit("The results are of different blocks, epochs or threads: publish those of one setting.")
    runs: dict[int, dict[str, dict[str, float | str]]] = {}
    for part in parts:
        for seed, run in zip(part["seeds"], part["runs"], strict=True):
            runs.setdefault(seed, {}).update(run)
    if len({frozenset(run) for run in runs.values()}) > 1:
        raise SystemExit("Some seeds lack rows that others have: publish the same rows of all seeds.")
    rows = []
    for row in summary(list(runs.values())):
        kept = {name: row[name] for name in ("name", "role", "miou_mean", "miou_sd", "oa_mean", "aa_mean")}
        rows.append(kept | {"seconds": row["seconds_mean"]})
    data = {name: parts[0][name] for name in SETTING} | {"seeds": sorted(runs), "rows": rows}
    (DOCS / "quality.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    lines = [f"| {cells} |" for cells in ("Map | Role | mIoU | OA | AA | seconds", "--- | --- | --- | --- | --- | ---")]
    for row in rows:
        miou = f"{row['miou_mean']:.3f} ± {row['miou_sd']:.3f}"
        scores = f"{miou} | {row['oa_mean']:.3f} | {row['aa_mean']:.3f} | {row['seconds']:.0f}"
        lines.append(f"| {row['name']} | {row['role']} | {scores} |")
    seeds, tiles = len(data["seeds"]), ", ".join(f"{count} {name}" for name, count in data["tiles"].items())
    roles = " ".join(f"*{role.title()}*: {what}." for role, what in ROLES.items() if role in {r["role"] for r in rows})
    threads = "one CPU thread" if data["threads"] == 1 else f"{data['threads']} CPU threads"
    text = {"table": "\n".join(lines), "roles": roles, "threads": threads, "split": data["split_seed"]}
    page = PAGE.format(seeds=seeds, tiles=tiles, **text)
    (DOCS / "quality.md").write_text(page, encoding="utf-8")


def options_of(description: str | None, output: Path) -> argparse.ArgumentParser:
    """The options that all benchmarks on the development scene have.

    Args:
        description: What the benchmark does.
        output: Where its results go unless told otherwise.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data/virginia")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split-seed", type=int, default=SPLIT_SEED, help="seed of the blocks held out")
    parser.add_argument("--epochs", type=float, default=1.0, help="scale of all epochs, for a trial run")
    parser.add_argument("--rows", nargs="+", default=[], help="only the rows of these names")
    parser.add_argument("--output", type=Path, default=output)
    return parser


def main() -> None:
    """Run the table."""
    parser = options_of(__doc__, ROOT / "build/quality.json")
    parser.add_argument("--publish", type=Path, nargs="+", help="only write the documentation from these results")
    options = parser.parse_args()
    if options.publish:
        publish([json.loads(path.read_text(encoding="utf-8")) for path in options.publish])
        return
    if not options.data.is_dir():
        raise SystemExit(f"{options.data} does not exist: the table needs the development scene.")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    setting: dict[str, Any] = {"split_seed": options.split_seed, "seeds": options.seeds, "epochs": options.epochs}
    setting["threads"] = torch.get_num_threads()
    tables = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory(prefix="sparsevit-quality-") as folder:
            trial = Trial(options.data.resolve(), Path(folder), seed, options.split_seed, options.epochs)
            tables.append(table(trial, options.rows))
            setting["tiles"] = trial.tile_counts()
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps({**setting, "rows": summary(tables), "runs": tables}, indent=1))
    print(f"\n{'method':46s} {'role':11s} {'mIoU':>15s} {'OA':>15s} {'AA':>15s} {'s':>6s}")
    for row in summary(tables):
        cells = (f"{row[f'{m}_mean']:.3f} ± {row[f'{m}_sd']:.3f}" for m in ("miou", "oa", "aa"))
        print(f"{row['name']:46s} {row['role']:11s} {'  '.join(cells)} {row['seconds_mean']:6.0f}")


if __name__ == "__main__":
    main()
