"""A group of processes trains as one: equal weights, one report, nothing left behind."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import CUTTING, REFINING, SCHEME, TRAINING, Diary, write_place
from torch import nn

from sparsevit.errors import CancelledError, InputError, ResourceError
from sparsevit.jobs import get_job
from sparsevit.models.hardware import HardwareSettings
from sparsevit.models.model_file import load_model
from sparsevit.reporting import Reporter
from sparsevit.training import group
from sparsevit.training.loop import Phase, TrainingSettings, fit, make_fabric

POINTS = torch.linspace(-1, 1, 23)[:, None]  # batches of 8, 8 and 7: halves of 4 and 4, 4 and 3
SETTINGS = TrainingSettings(optimiser="sgd", learning_rate=0.1, batch=8, devices=2)


def fitted(normed: bool = False) -> nn.Module:
    """A line fitted to y = 3x + 1 with the summed loss of each batch, if asked of standardised x."""
    torch.manual_seed(0)
    line = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1)) if normed else nn.Linear(1, 1)

    def loss(positions: torch.Tensor) -> torch.Tensor:
        x = POINTS[positions]
        return group.size() * (line(x) - 3 * x - 1).square().sum() / 8

    phase = Phase("line", line, loss, len(POINTS), 5)
    fit(phase, SETTINGS, make_fabric(HardwareSettings(device="cpu", precision="32-true")), Reporter())
    return line


def _member(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    with group.membership("gloo", folder / "meet", rank, 2):
        assert (group.rank(), group.size()) == (rank, 2)
        assert len(group.share_of(torch.arange(1))) == 1  # too few tiles to share: everyone takes them
        save_file(fitted().state_dict(), folder / f"{rank}.safetensors")
        save_file(fitted(normed=True).state_dict(), folder / f"normed_{rank}.safetensors")
    assert group.size() == 1


def test_two_processes_end_with_the_weights_of_one(tmp_path: Path) -> None:
    alone = fitted()
    torch.multiprocessing.spawn(_member, (tmp_path,), 2)
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    for name, value in alone.state_dict().items():
        assert torch.equal(first[name], second[name])
        assert torch.allclose(first[name], value, atol=1e-6)
    first, second = (load_file(tmp_path / f"normed_{rank}.safetensors") for rank in range(2))
    assert "0.running_mean" in first and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("group")
    scene, classes = write_place(folder)
    index = folder / "tiles.gpkg"
    get_job("tiles").execute({"scene": [str(scene)], "output": str(index), **CUTTING}, Reporter())
    tag = {"tiles": str(index), "scheme": str(SCHEME), "source": "raster", "raster": str(classes)}
    get_job("tag").execute(tag, Reporter())
    return index


def params(tiles: Path, output: Path, **more: Any) -> dict[str, Any]:
    return {"tiles": str(tiles), "output": str(output), "devices": 2, **TRAINING, **more}


@pytest.fixture
def two_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_the_jobs_train_on_two_devices_and_report_once(tiles: Path, tmp_path: Path) -> None:
    classifier, diary = tmp_path / "classifier.safetensors", Diary()
    folder = tmp_path / "checkpoints"
    result = get_job("train").execute(params(tiles, classifier, checkpoints=str(folder)), diary)
    assert result.model_dump()["training_tiles"] > 0
    assert len(diary.metrics["transformer_loss"]) == TRAINING["epochs"]
    assert diary.fractions == sorted(diary.fractions) and diary.fractions[-1] > 0.9
    model, _ = load_model(classifier)
    assert all(torch.isfinite(v).all() for v in model.state_dict().values())
    assert (folder / "transformer.checkpoint").is_file()

    mask, refined = tmp_path / "mask.tif", tmp_path / "refined.safetensors"
    get_job("pseudomask").execute({"model": str(classifier), "tiles": str(tiles), "output": str(mask)}, Reporter())
    inputs = {"tiles": str(tiles), "classifier": str(classifier), "pseudomask": str(mask), "output": str(refined)}
    get_job("refine").execute({**inputs, **REFINING, "devices": 2, "device": "cpu"}, Reporter())
    assert refined.is_file()


@pytest.mark.usefixtures("two_threads")
def test_cancelling_ends_every_process(tiles: Path, tmp_path: Path) -> None:
    output = tmp_path / "classifier.safetensors"
    with pytest.raises(CancelledError):
        get_job("train").execute(params(tiles, output, epochs=10_000), Diary(stop_at=0.0))
    assert not list(tmp_path.iterdir())
    assert not multiprocessing.active_children()


class KillsOne(Diary):
    """Kills one of the processes once they train."""

    def metric(self, name: str, step: int, value: float) -> None:
        if not self.metrics:
            multiprocessing.active_children()[-1].kill()
            self.begun = time.monotonic()
        super().metric(name, step, value)


@pytest.mark.usefixtures("two_threads")
def test_a_process_that_is_killed_ends_the_others_at_once(tiles: Path, tmp_path: Path) -> None:
    diary = KillsOne()
    with pytest.raises((ResourceError, RuntimeError)):
        get_job("train").execute(params(tiles, tmp_path / "m.safetensors", epochs=10_000), diary)
    assert time.monotonic() - diary.begun < 15
    assert not multiprocessing.active_children() and not list(tmp_path.iterdir())


@pytest.mark.usefixtures("two_threads")
def test_what_is_wrong_is_said_once_and_in_a_sentence(tiles: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no-such\.gpkg"):
        get_job("train").execute(params(tmp_path / "no-such.gpkg", tmp_path / "m.safetensors"), Reporter())
    with pytest.raises(InputError, match="1000 devices") as caught:
        get_job("train").execute(params(tiles, tmp_path / "m.safetensors", devices=1000), Reporter())
    assert caught.value.parameter == "devices"
