"""How good is a map from tags? One table: the product, the published recipe, and the controls to fear.

Northern half of the development scene `virginia`: spatial blocks with a gap, the same tiles, tags and seeds for all
rows, scored on blocks that nothing was trained on and whose tags nobody saw. All network rows are mapped the same
way (overlapping tiles, blended, the same edge refinement).

    python benchmarks/quality.py --data ../shared/data/virginia --seeds 0 1 2 --output build/quality.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
import torch

from sparsevit.assessment.accuracy import accuracy, count_pairs
from sparsevit.geodata.categorical import categories_on, translate
from sparsevit.geodata.legend import ClassScheme, load_scheme, parse_scheme
from sparsevit.geodata.scene import open_scene
from sparsevit.geodata.tile_index import read_tile_index
from sparsevit.jobs import get_job
from sparsevit.jobs.base import Result
from sparsevit.models.hardware import HardwareSettings
from sparsevit.models.landcover import LandCoverModel
from sparsevit.models.model_file import load_model, save_model
from sparsevit.reporting import Reporter
from sparsevit.training.loop import TrainingSettings, make_fabric
from sparsevit.training.refinement import RefinementSettings, train_unet
from sparsevit.training.tagged import TrainingData, load_training_data

NORTH_ROWS = 1024
SEEN_SHARE = 0.002
"""Classes with a smaller share of the scored pixels do not count: their IoU is noise."""

ROOT = Path(__file__).resolve().parents[1]
SCHEME = ROOT / "resources/schemes/dfc2020.json"


class Bench:
    """One seed: the shared tiles and the maps made from them."""

    def __init__(self, data: Path, folder: Path, seed: int, epochs: float) -> None:
        self.data, self.folder, self.seed, self.epochs = data, folder, seed, epochs
        self.scene = [data / "s2_l1c_10m.tif", data / "s2_l1c_20m.tif"]
        self.truth = data / "label_dfc_north.tif"
        self.tiles = folder / "tiles.gpkg"
        with rasterio.open(self.scene[0]) as src:
            t = src.transform
            self.extent = (t.c, t.f + NORTH_ROWS * t.e, t.c + src.width * t.a, t.f)

    def job(self, name: str, **params: object) -> Result:
        """Run a job of the engine."""
        return get_job(name).execute(params, Reporter())

    def prepare(self) -> None:
        """Cut tiles, hold blocks out, derive the tags from the reference."""
        split = {"validation_share": 0.15, "test_share": 0.25, "split_seed": 0}
        self.job("tiles", scene=self.scene, extent=self.extent, output=self.tiles, **split)
        self.job("tag", tiles=self.tiles, scheme=SCHEME, source="raster", raster=self.truth)

    def training_data(self) -> TrainingData:
        """The tagged tiles, without those of the test blocks."""
        return load_training_data(read_tile_index(self.tiles), [], [], [], Reporter())

    def scaled(self, count: int) -> int:
        """Epochs, shortened for a trial run."""
        return max(round(count * self.epochs), 1)

    def scores(self, raster: Path, scheme: ClassScheme) -> dict[str, float]:
        """Scores of a class raster on the test blocks; unlabelled pixels count as wrong."""
        index = read_tile_index(self.tiles).in_split("test")
        table = {code: k for k, code in enumerate(scheme.codes)}
        classes = len(scheme.codes)
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


def rows(bench: Bench) -> dict[str, dict[str, float | str]]:
    """All rows of the table for one seed."""
    bench.prepare()
    data = bench.training_data()
    fabric, training = make_fabric(HardwareSettings()), TrainingSettings(seed=bench.seed)
    classifier = bench.folder / "classifier.safetensors"
    started = time.monotonic()
    trained = bench.job(
        "train",
        tiles=bench.tiles,
        output=classifier,
        seed=bench.seed,
        controls=False,
        epochs=bench.scaled(40),
        gate_epochs=bench.scaled(8),
        finetune_epochs=bench.scaled(16),
        spectral_epochs=bench.scaled(40),
    )
    train_seconds = time.monotonic() - started
    model, card = load_model(classifier)
    scheme = parse_scheme(card.scheme, "card")
    table: dict[str, dict[str, float | str]] = {}

    def add(name: str, role: str, make: Callable[[], Path], extra: float = 0.0) -> None:
        begun = time.monotonic()
        raster = make()
        seconds = time.monotonic() - begun + extra
        table[name] = {"role": role, **bench.scores(raster, scheme), "seconds": round(seconds, 1)}
        print(f"seed {bench.seed}  {name:42s} {table[name]}", flush=True)

    def reweighted(name: str, weights: dict[str, float]) -> Path:
        view = LandCoverModel(replace(model.architecture, weights=weights))
        view.load_state_dict(model.state_dict())
        path = bench.folder / f"{name}.safetensors"
        save_model(path, view, card)
        return bench.predict(path, name)

    def unet(name: str, masks: torch.Tensor | None, settings: RefinementSettings) -> Path:
        network = train_unet(model, settings, data.train, masks, training, fabric, 1, Reporter())
        view = LandCoverModel(replace(model.architecture, encoder=settings.encoder, weights={"unet": 1.0}))
        view.load_state_dict(model.state_dict(), strict=False)
        view.unet = network
        path = bench.folder / f"{name}.safetensors"
        save_model(path, view, card)
        return bench.predict(path, name)

    def painted(name: str, **options: object) -> Path:
        output = bench.folder / f"{name}.tif"
        bench.job("pseudomask", model=classifier, scene=bench.scene, extent=bench.extent, output=output, **options)
        return output

    epochs = bench.scaled(20)
    add("majority class", "control", lambda: majority(bench, data))
    add("per-pixel network, tags", "control", lambda: reweighted("spectral", {"spectral": 1.0}), train_seconds)
    add("U-Net, tags alone", "control", lambda: unet("unet_tags", None, RefinementSettings(refine_epochs=epochs)))
    recipe = {"method": "clusters", "naming": "rank", "edges": "none", "ignore_margin": 0.0, "pseudomask_overlap": 0.0}
    add("pseudomask, published recipe", "control", lambda: painted("recipe", **recipe), train_seconds)
    add("pseudomask, clusters by assignment", "ablation", lambda: painted("named", **recipe | {"naming": "assignment"}))
    add("transformer alone", "ablation", lambda: reweighted("transformer", {"vit": 1.0}), train_seconds)
    add("pseudomask", "default", lambda: painted("evidence", ignore_margin=0.0), train_seconds)

    def refined() -> Path:
        masks, output = bench.folder / "masks.tif", bench.folder / "landcover.safetensors"
        bench.job("pseudomask", model=classifier, tiles=bench.tiles, extent=bench.extent, output=masks)
        result = bench.job(
            "refine",
            tiles=bench.tiles,
            classifier=classifier,
            pseudomask=masks,
            output=output,
            refine_epochs=epochs,
            seed=bench.seed,
        )
        print(result.model_dump_json(), flush=True)
        return bench.predict(output, "refined")

    add("refined map", "default", refined, train_seconds)
    supervised = RefinementSettings(refine_epochs=epochs, fraction_weight=0.0, label_smoothing=0.0, mask_weight=1.0)
    add("U-Net, true masks", "supervised", lambda: unet("unet_masks", true_masks(bench, data), supervised))
    print(trained.model_dump_json(), flush=True)
    return table


def majority(bench: Bench, data: TrainingData) -> Path:
    """A raster of the class that most training tiles have."""
    code = data.scheme.codes[int((data.train.tags == 1).sum(0).argmax())]
    output = bench.folder / "majority.tif"
    with rasterio.open(bench.truth) as src:
        profile = src.profile
    with rasterio.open(output, "w", **profile) as out:
        out.write(np.full((1, profile["height"], profile["width"]), code, np.uint8))
    return output


def true_masks(bench: Bench, data: TrainingData) -> torch.Tensor:
    """Reference masks of the training tiles `[N, H, W]`, -1 where unlabelled."""
    table = {code: k for k, code in enumerate(data.scheme.codes)}
    masks = []
    with open_scene(bench.scene) as scene, categories_on(bench.truth, scene.grid, "reference") as read:
        for window in data.train_index.windows():
            values, valid = read(window)
            masks.append(np.where(valid, translate(values, table, -1), -1))
    return torch.from_numpy(np.stack(masks).astype(np.int64))


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


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data/virginia")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=1.0, help="scale of all epochs, for a trial run")
    parser.add_argument("--output", type=Path, default=ROOT / "build/quality.json")
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"{options.data} does not exist: the table needs the development scene.")
    load_scheme(SCHEME)
    tables = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory(prefix="sparsevit-quality-") as folder:
            tables.append(rows(Bench(options.data.resolve(), Path(folder), seed, options.epochs)))
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(
            json.dumps({"seeds": options.seeds, "rows": summary(tables), "runs": tables}, indent=1)
        )
    print(f"\n{'method':38s} {'role':11s} {'mIoU':>15s} {'OA':>15s} {'AA':>15s} {'s':>6s}")
    for row in summary(tables):
        cells = (f"{row[f'{m}_mean']:.3f} ± {row[f'{m}_sd']:.3f}" for m in ("miou", "oa", "aa"))
        print(f"{row['name']:38s} {row['role']:11s} {'  '.join(cells)} {row['seconds_mean']:6.0f}")


if __name__ == "__main__":
    main()
