"""Map the sample scene from tags with `qgis_process`, assess the map, and draw it.

Usage: `run.py BUILD_FOLDER`; started by `make demo`, which has made the environments and staged the plugin.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SAMPLE = REPOSITORY / "resources" / "sample" / "virginia"
OUTPUTS = {
    "LANDCOVER": "landcover.tif",
    "PSEUDOMASK": "pseudomask.tif",
    "CONFIDENCE": "confidence.tif",
    "TILES": "tiles.gpkg",
    "CLASSIFIER_MODEL": "classifier.safetensors",
    "MODEL": "landcover.safetensors",
}


class QgisProcess:
    """The staged plugin in `qgis_process`, with settings of its own.

    Args:
        build: The folder that holds `plugins`.
    """

    def __init__(self, build: Path) -> None:
        # Debian 12's wrapper `qgis_process` always fails: the program itself comes first.
        found = shutil.which("qgis_process.bin") or shutil.which("qgis_process")
        if found is None:
            sys.exit("qgis_process was not found; `make qgis` installs QGIS.")
        self._program = found
        settings = build / "qgis-settings"
        settings.mkdir(parents=True, exist_ok=True)
        self._environment = {
            **os.environ,
            "QGIS_PLUGINPATH": str(build / "plugins"),
            "QGIS_CUSTOM_CONFIG_PATH": str(settings),
            "SPARSEVIT_PYTHON": sys.executable,  # this script runs in the engine's environment
            "QT_QPA_PLATFORM": "offscreen",
            "GDAL_PAM_ENABLED": "NO",  # no statistics beside the sample
        }
        self._call("plugins", "enable", "sparsevit_qgis")  # fails where it is enabled already
        if "sparsevit:maplandcover" not in self._call("list"):
            sys.exit(f"QGIS does not load the plugin in {build / 'plugins'}; `make plugin` stages it.")

    def run(self, algorithm: str, **values: object) -> dict[str, str]:
        """Run an algorithm, show its log, and return its results; stop the demo if it fails."""
        pairs = ((name, v) for name, value in values.items() for v in (value if isinstance(value, list) else [value]))
        given = [f"--{name}={value}" for name, value in pairs]
        results: dict[str, str] = {}
        in_results = False
        command = [self._program, "run", f"sparsevit:{algorithm}", *given]
        say(f"\n$ {' '.join(Path(part).name if part == self._program else part for part in command)}")
        with subprocess.Popen(command, env=self._environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                say(line.rstrip("\n"))
                in_results = in_results or line.startswith("Results")
                if in_results and ":\t" in line:
                    name, _, value = line.partition(":\t")
                    results[name] = value.strip()
        if process.returncode:
            sys.exit(f"sparsevit:{algorithm} failed with exit code {process.returncode}.")
        return results

    def _call(self, *arguments: str) -> str:
        command = [self._program, *arguments]
        return subprocess.run(command, env=self._environment, check=False, capture_output=True, text=True).stdout


def say(line: str) -> None:
    """Show a line at once, also in a pipe."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def map_and_assess(qgis: QgisProcess, folder: Path) -> dict[str, dict[str, str]]:
    """From the sample's tags to a map and its accuracy; the results of each algorithm by a short name."""
    mapped = qgis.run(
        "maplandcover",
        SCENE=[SAMPLE / "s2_10m.tif", SAMPLE / "s2_20m.tif"],
        SOURCE="text",
        LAYER=SAMPLE / "tags.gpkg",
        FIELD="classes",
        CONTROLS="false",  # they tell about the heads and change no map
        **{name: folder / file for name, file in OUTPUTS.items()},
    )
    reference = SAMPLE / "reference.tif"
    first = qgis.run(
        "assessaccuracy",
        MAP=folder / "pseudomask.tif",
        REFERENCE=reference,
        TITLE="Pseudomask of the sample scene",
        OUTPUT=folder / "pseudomask_report.html",
        JSON_OUTPUT=folder / "pseudomask_report.json",
    )
    final = qgis.run(
        "assessaccuracy",
        MAP=folder / "landcover.tif",
        REFERENCE=reference,
        TITLE="Land cover of the sample scene",
        OUTPUT=folder / "report.html",
        JSON_OUTPUT=folder / "report.json",
    )
    return {"map": mapped, "pseudomask": first, "land cover": final}


def look_inside(qgis: QgisProcess, folder: Path) -> None:
    """What the map came from: where each head looks, and what the classifier alone says of each class."""
    classifier = folder / "classifier.safetensors"
    scene = [SAMPLE / "s2_10m.tif", SAMPLE / "s2_20m.tif"]
    qgis.run("inspectheads", MODEL=classifier, SCENE=scene, OUTPUT=folder / "heads.tif")
    evidence = {"OUTPUT": folder / "evidence_classes.tif", "PROBABILITIES": folder / "evidence.tif"}
    qgis.run("predictlandcover", MODEL=classifier, SCENE=scene, **evidence)


def draw(folder: Path) -> None:
    """Make the project and the picture with QGIS's own Python."""
    python = os.environ.get("QGIS_PYTHON", "/usr/bin/python3")
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "GDAL_PAM_ENABLED": "NO"}
    script = Path(__file__).with_name("render.py")
    scheme = REPOSITORY / "resources" / "schemes" / "dfc2020.json"
    subprocess.run([python, str(script), str(SAMPLE), str(scheme), str(folder)], env=environment, check=True)


def table(results: dict[str, dict[str, str]], seconds: float) -> str:
    """What was made and how good it is, in a few lines."""
    mapped = results["map"]
    everywhere = float(results["land cover"]["PIXELS"])
    lines = [
        "",
        f"{'against the reference':<24}{'mIoU':>7}{'OA':>7}{'AA':>7}{'of pixels':>11}",
        *(
            f"{name:<24}{float(r['MIOU']):>7.3f}{float(r['OA']):>7.3f}{float(r['AA']):>7.3f}"
            f"{100 * float(r['PIXELS']) / everywhere:>9.0f} %"
            for name, r in results.items()
            if name != "map"
        ),
        "(the pseudomask leaves what is unsure without a class; those pixels do not count against it)",
        "",
        f"attention heads kept    {mapped['HEADS_KEPT']} of {mapped['HEADS_TOTAL']}",
        f"tags, validation blocks macro F1 {float(mapped['MACRO_F1']):.3f}, mAP {float(mapped['MEAN_AP']):.3f}",
        f"seconds                 {float(mapped['SECONDS']):.0f} for the map, {seconds:.0f} in all",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the demo."""
    start = time.monotonic()
    build = Path(sys.argv[1]).resolve()
    folder = build / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    qgis = QgisProcess(build)
    results = map_and_assess(qgis, folder)
    look_inside(qgis, folder)
    draw(folder)
    say(table(results, time.monotonic() - start))
    expected = [*OUTPUTS.values(), "report.html", "report.json", "project.qgz", "map.png", "steps.png"]
    missing = [name for name in expected if not (folder / name).is_file()]
    if missing:
        sys.exit(f"The demo did not write {', '.join(missing)}.")
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    say(f"\nThe map, its pictures and its report are in {os.path.relpath(folder)}: open project.qgz in QGIS.")


if __name__ == "__main__":
    main()
