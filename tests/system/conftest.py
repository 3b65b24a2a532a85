"""`qgis_process` on the staged plugin, and a tiny place cut from the sample."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import geopandas
import pytest
import rasterio
import shapely
from rasterio.windows import Window, from_bounds

REPOSITORY = Path(__file__).resolve().parents[2]
STAGED = REPOSITORY / "build" / "plugins"
SAMPLE = REPOSITORY / "resources" / "sample" / "virginia"

# Of the 15 × 10 tagged squares of the sample: 7 × 4 around the shore of the lagoon, with six classes.
BOUNDS = (443930.0, 4171140.0, 448410.0, 4173700.0)

# Settings with which every step takes seconds; what comes out is no map, but it is complete.
TILING = {"BLOCK_SIZE_M": 1280, "GAP_M": 0}
PHASES = {"EPOCHS": 1, "GATE_EPOCHS": 1, "FINETUNE_EPOCHS": 1, "SPECTRAL_EPOCHS": 1}
TRAINING = PHASES | {"HEADS_KEPT": 0.3, "CONTROLS": "false"}
REFINING = {"ROUNDS": 1, "REFINE_EPOCHS": 1}


@dataclass(frozen=True)
class Run:
    """How a call of `qgis_process` ended."""

    code: int
    out: str
    err: str

    @property
    def results(self) -> dict[str, str]:
        """The values under “Results”."""
        lines = self.out.partition("\nResults\n")[2].splitlines()
        return {name: value for name, tab, value in (line.partition(":\t") for line in lines) if tab}

    @property
    def reason(self) -> str:
        """What was said after `ERROR:`, as a user reads it."""
        said = self.err.partition("ERROR:\t")[2].replace("An error was encountered while checking parameter values", "")
        return said.strip().splitlines()[0].strip() if said.strip() else ""


class QgisProcess:
    """`qgis_process` with settings of its own.

    Args:
        settings: Folder for QGIS's settings.
    """

    def __init__(self, settings: Path) -> None:
        program = shutil.which("qgis_process.bin") or shutil.which("qgis_process")
        if program is None:
            pytest.skip("QGIS is not installed; run `make test-system`")
        self.program = program
        self.environment = {
            **os.environ,
            "QGIS_PLUGINPATH": str(STAGED),
            "QGIS_CUSTOM_CONFIG_PATH": str(settings),
            "SPARSEVIT_PYTHON": sys.executable,  # these tests run in the engine's environment
            "QT_QPA_PLATFORM": "offscreen",
            "GDAL_PAM_ENABLED": "NO",  # no statistics beside the inputs
        }
        self.call("plugins", "enable", "sparsevit_qgis")

    def command(self, algorithm: str, **values: object) -> list[str]:
        """The command line; a list repeats its option, None leaves it out."""
        pairs = [(name, v) for name, value in values.items() for v in (value if isinstance(value, list) else [value])]
        return [self.program, "run", f"sparsevit:{algorithm}", *(f"--{n}={v}" for n, v in pairs if v is not None)]

    def run(self, algorithm: str, environment: dict[str, str] | None = None, **values: object) -> Run:
        """Run an algorithm to its end."""
        return self._finish(self.command(algorithm, **values), {**self.environment, **(environment or {})})

    def call(self, *arguments: str) -> Run:
        """Any other command of `qgis_process`."""
        return self._finish([self.program, *arguments], self.environment)

    def start(self, algorithm: str, **values: object) -> subprocess.Popen[str]:
        """Start an algorithm and let it run; stdout can be read line by line."""
        return subprocess.Popen(
            self.command(algorithm, **values),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def _finish(self, command: list[str], environment: dict[str, str]) -> Run:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        return Run(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def qgis(tmp_path_factory: pytest.TempPathFactory) -> QgisProcess:
    """`qgis_process` with the staged plugin enabled."""
    if not (STAGED / "sparsevit_qgis" / "metadata.txt").is_file():
        pytest.skip("The plugin is not staged; run `make test-system`")
    return QgisProcess(tmp_path_factory.mktemp("qgis"))


@dataclass(frozen=True)
class Place:
    """The files of the tiny place, and what the steps make of it."""

    folder: Path

    @property
    def scene(self) -> Path:
        return self.folder / "s2 10 m ä.tif"  # spaces and letters that are not ASCII are nothing special

    @property
    def scene_20m(self) -> Path:
        return self.folder / "s2_20m.tif"

    @property
    def tags(self) -> Path:
        return self.folder / "tags.gpkg"

    @property
    def tiles(self) -> Path:
        return self.folder / "tiles.gpkg"

    @property
    def classifier(self) -> Path:
        return self.folder / "classifier.safetensors"

    @property
    def pseudomask(self) -> Path:
        return self.folder / "pseudomask.tif"

    @property
    def model(self) -> Path:
        return self.folder / "landcover.safetensors"

    @property
    def landcover(self) -> Path:
        return self.folder / "landcover.tif"

    @property
    def polygons(self) -> Path:
        return self.folder / "landcover polygons.gpkg"


def crop(source: Path, target: Path, bounds: tuple[float, float, float, float]) -> None:
    """Cut whole pixels out of a raster, with the names of its bands."""
    with rasterio.open(source) as raster:
        window = from_bounds(*bounds, raster.transform).round_offsets().round_lengths()
        window = window.intersection(Window(0, 0, raster.width, raster.height))
        profile = raster.profile | {
            "width": int(window.width),
            "height": int(window.height),
            "transform": raster.window_transform(window),
        }
        with rasterio.open(target, "w", **profile) as cut:
            cut.write(raster.read(window=window))
            cut.descriptions = raster.descriptions


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The tiny place: two rasters and the tags of 28 squares."""
    tiny = Place(tmp_path_factory.mktemp("place"))
    crop(SAMPLE / "s2_10m.tif", tiny.scene, BOUNDS)
    crop(SAMPLE / "s2_20m.tif", tiny.scene_20m, BOUNDS)
    tags = geopandas.read_file(SAMPLE / "tags.gpkg")
    tags[tags.within(shapely.box(*BOUNDS).buffer(1))].to_file(tiny.tags, driver="GPKG")
    return tiny


@pytest.fixture(scope="session")
def steps(qgis: QgisProcess, place: Place) -> dict[str, Run]:
    """Every step of the tiny place, run once in order; later steps need the files of the earlier ones."""
    runs = {
        "createtiles": {"SCENE": [place.scene, place.scene_20m], "OUTPUT": place.tiles, **TILING},
        "tagtiles": {"TILES": place.tiles, "SOURCE": "text", "LAYER": place.tags, "FIELD": "classes"},
        "trainclassifier": {"TILES": place.tiles, "OUTPUT": place.classifier, **TRAINING},
        "generatepseudomasks": {
            "MODEL": place.classifier,
            "TILES": place.tiles,
            "OUTPUT": place.pseudomask,
            "CONFIDENCE": place.folder / "confidence.tif",
            "HEADS": place.folder / "heads.tif",
        },
        "refinelandcover": {
            "TILES": place.tiles,
            "CLASSIFIER": place.classifier,
            "PSEUDOMASK": place.pseudomask,
            "OUTPUT": place.model,
            **REFINING,
        },
        "predictlandcover": {
            "MODEL": place.model,
            "SCENE": [place.scene, place.scene_20m],
            "OUTPUT": place.landcover,
            "PROBABILITIES": place.folder / "probabilities.tif",
        },
        "assessaccuracy": {
            "MAP": place.landcover,
            "REFERENCE": place.pseudomask,
            "OUTPUT": place.folder / "report.html",
            "JSON_OUTPUT": place.folder / "report.json",
        },
        "vectorizelandcover": {
            "MAP": place.landcover,
            "MINIMUM_MAPPING_UNIT_M2": 1000,
            "SIMPLIFY_M": 10,
            "OUTPUT": place.polygons,
        },
        "inspectheads": {
            "MODEL": place.model,
            "SCENE": [place.scene, place.scene_20m],
            "OUTPUT": place.folder / "inspected.tif",
        },
        "checkengine": {},
    }
    done = {}
    for name, values in runs.items():
        done[name] = qgis.run(name, **values)
        assert done[name].code == 0, f"{name}: {done[name].reason}"
    return done
