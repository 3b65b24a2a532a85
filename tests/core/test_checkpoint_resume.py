"""Training and refinement that are interrupted and resumed equal those that are not, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from small_models import Diary, tagged_tiles, tiny_architecture
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from sparsevit.errors import CancelledError, InputError
from sparsevit.models.hardware import HardwareSettings
from sparsevit.models.landcover import LandCoverModel
from sparsevit.reporting import Reporter
from sparsevit.training.classifier import TrainedClassifier, train_classifier
from sparsevit.training.head_budget import BudgetSettings
from sparsevit.training.loop import Phase, TrainingSettings, fit, make_fabric, seed_for
from sparsevit.training.phases import ClassifierSettings
from sparsevit.training.refinement import Refinement, RefinementSettings, refine

TILES, MASKS = tagged_tiles(24)
HELD_OUT, _ = tagged_tiles(8, seed=1)
SHORT = ClassifierSettings(epochs=3, gate_epochs=2, finetune_epochs=2, spectral_epochs=2)
HALF = BudgetSettings(heads_kept=0.5, controls=False)
STATISTICS = (torch.zeros(3), torch.ones(3))


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return make_fabric(HardwareSettings(device="cpu", precision="32-true"))


class StopAfter(Diary):
    """Cancels once a number of epochs has been reported."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    def cancelled(self) -> bool:
        others = ("validation_loss", "tag_loss")
        return sum(len(v) for k, v in self.metrics.items() if not k.endswith(others)) >= self.epochs


def trained(
    fabric: Fabric, training: TrainingSettings, folder: Path | None = None, reporter: Reporter | None = None
) -> TrainedClassifier:
    return train_classifier(
        tiny_architecture(), STATISTICS, TILES, HELD_OUT, SHORT, HALF, training, fabric, reporter or Reporter(), folder
    )


def assert_same(a: TrainedClassifier, b: TrainedClassifier) -> None:
    first, second = a.model.state_dict(), b.model.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert a.head_mask == b.head_mask and a.scores == b.scores


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_run_interrupted_again_and_again_equals_an_uninterrupted_one(
    fabric: Fabric, tmp_path: Path, optimiser: str
) -> None:
    training = TrainingSettings(optimiser=optimiser, batch=8, accumulation=2, learning_rate=3e-3)
    expected = trained(fabric, training)
    total = SHORT.spectral_epochs + SHORT.epochs + SHORT.gate_epochs + SHORT.finetune_epochs
    for _ in range(total - 1):  # each of these runs ends after one more epoch, in every phase
        torch.manual_seed(torch.seed() % 1000)  # whatever else the process drew
        with pytest.raises(CancelledError):
            trained(fabric, training, tmp_path, StopAfter(1))
    assert_same(trained(fabric, training, tmp_path), expected)


def test_an_interruption_in_the_middle_of_an_epoch_repeats_that_epoch(fabric: Fabric, tmp_path: Path) -> None:
    training = TrainingSettings(batch=8)
    asked = iter(range(10_000))

    class InTheMiddle(Reporter):
        def cancelled(self) -> bool:
            return next(asked) >= 3 * 2 + 3 + 1  # spectral: 2 epochs of 3 steps; then the second step of epoch 2

    with pytest.raises(CancelledError):
        trained(fabric, training, tmp_path, InTheMiddle())
    assert_same(trained(fabric, training, tmp_path), trained(fabric, training))


def test_the_same_seed_gives_the_same_classifier_and_another_seed_another(fabric: Fabric) -> None:
    first = trained(fabric, TrainingSettings(seed=1))
    assert_same(first, trained(fabric, TrainingSettings(seed=1)))
    other = trained(fabric, TrainingSettings(seed=2)).model.state_dict()
    assert any(not torch.equal(v, other[k]) for k, v in first.model.state_dict().items() if k.startswith("spectral"))


def test_epochs_draw_different_orders_and_phases_too() -> None:
    settings = TrainingSettings()
    seeds = {seed_for(settings, phase, epoch) for phase in ("a", "b") for epoch in range(20)}
    assert len(seeds) == 40


def test_exactly_the_heads_asked_for_survive(fabric: Fabric) -> None:
    result = trained(fabric, TrainingSettings())
    assert sum(map(sum, result.head_mask)) == 2
    assert result.model.vit is not None and sum(result.model.vit.config.heads) == 2
    assert result.model.architecture.vit == result.model.vit.config


# --- one phase --------------------------------------------------------------------------------------------------------


def line(seed: int = 0) -> tuple[nn.Linear, Tensor, Tensor]:
    torch.manual_seed(seed)
    x = torch.randn(32, 3)
    return nn.Linear(3, 1), x, x @ torch.tensor([[1.0], [-2.0], [0.5]])


def phase_of(network: nn.Linear, x: Tensor, y: Tensor, epochs: int, validation: Iterator[float] | None = None) -> Phase:
    return Phase(
        "line",
        network,
        lambda p: (network(x[p]) - y[p]).square().mean(),
        len(x),
        epochs,
        validate=(lambda: next(validation)) if validation else None,
    )


def diverging() -> Callable[[Tensor], Tensor]:
    """A loss that is no number from the second epoch on."""
    seen = 0

    def loss(positions: Tensor) -> Tensor:
        nonlocal seen
        seen += len(positions)
        return torch.tensor(1.0 if seen <= 32 else torch.nan, requires_grad=True)

    return loss


def test_training_fits_what_can_be_fitted(fabric: Fabric) -> None:
    network, x, y = line()
    fit(phase_of(network, x, y, 60), TrainingSettings(learning_rate=0.1, weight_decay=0), fabric, Reporter())
    assert (network(x) - y).square().mean() < 1e-2
    assert not network.training


def test_a_training_that_diverges_is_an_input_error(fabric: Fabric) -> None:
    network, x, y = line()
    with pytest.raises(InputError, match="epoch 2 of 'line'") as raised:
        fit(replace(phase_of(network, x, y, 4), loss=diverging()), TrainingSettings(), fabric, Reporter())
    assert "learning rate" in str(raised.value.hint)


def test_every_epoch_draws_all_tiles_once_in_an_order_of_its_own(fabric: Fabric) -> None:
    network, x, y = line()
    drawn: list[Tensor] = []

    def loss(positions: Tensor) -> Tensor:
        drawn.append(positions)
        return (network(x[positions]) - y[positions]).square().mean()

    fit(Phase("line", network, loss, len(x), 3), TrainingSettings(batch=5), fabric, Reporter())
    epochs, in_order = torch.cat(drawn).view(3, len(x)), torch.arange(len(x))
    assert all(torch.equal(epoch.sort().values, in_order) for epoch in epochs)
    assert len({tuple(order.tolist()) for order in (*epochs, in_order)}) == 4


def test_accumulated_steps_equal_one_step_of_the_larger_batch(fabric: Fabric) -> None:
    results = []
    for batch, accumulation in ((8, 4), (32, 1)):
        network, x, y = line()
        settings = TrainingSettings(optimiser="sgd", batch=batch, accumulation=accumulation, learning_rate=0.01)
        fit(phase_of(network, x, y, 3), settings, fabric, Reporter())
        results.append(network.weight.detach().clone())
    torch.testing.assert_close(results[0], results[1])


def test_early_stopping_keeps_the_best_weights(fabric: Fabric) -> None:
    network, x, y = line()
    weights: list[Tensor] = []
    values = iter([3.0, 1.0, 2.0, 2.5, 0.0])

    def validation() -> Iterator[float]:
        for value in values:
            weights.append(network.weight.detach().clone())
            yield value

    fit(phase_of(network, x, y, 10, validation()), TrainingSettings(patience=2), fabric, Reporter())
    assert len(weights) == 4  # the best at the second epoch, then two that were no better
    assert torch.equal(network.weight, weights[1])


def test_without_patience_all_epochs_are_done(fabric: Fabric) -> None:
    network, x, y = line()
    diary = Diary()
    fit(phase_of(network, x, y, 5, iter([1.0, 2.0, 3.0, 4.0, 5.0])), TrainingSettings(), fabric, diary)
    assert len(diary.metrics["line_loss"]) == 5 and diary.fractions[-1] == 1


def test_early_stopping_remembers_its_best_epoch_over_an_interruption(fabric: Fabric, tmp_path: Path) -> None:
    training = TrainingSettings(patience=2)
    expected, x, y = line()
    fit(phase_of(expected, x, y, 10, iter([3.0, 1.0, 2.0, 2.5])), training, fabric, Reporter())
    network, x, y = line()
    with pytest.raises(CancelledError):
        fit(phase_of(network, x, y, 10, iter([3.0, 1.0, 2.0])), training, fabric, StopAfter(3), tmp_path)
    network, x, y = line(seed=1)
    fit(phase_of(network, x, y, 10, iter([2.5])), training, fabric, Reporter(), tmp_path)  # stops after epoch 4
    assert torch.equal(network.weight, expected.weight)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_every_group_follows_the_schedule_from_a_peak_of_its_own(fabric: Fabric, schedule: str) -> None:
    network, x, y = line()
    groups = [{"params": [network.weight], "lr": 0.02}, {"params": [network.bias]}]
    rates: list[list[float]] = []
    hook = register_optimizer_step_post_hook(
        lambda optimiser, *_: rates.append([g["lr"] for g in optimiser.param_groups])
    )
    settings = TrainingSettings(learning_rate=0.1, batch=8, schedule=schedule, warmup=0.2)  # type: ignore[arg-type]
    fit(replace(phase_of(network, x, y, 5), parameters=groups, learning_rate=0.04), settings, fabric, Reporter())
    hook.remove()
    done = np.arange(1, 21) / 20
    after = 0.5 * (1 + np.cos(np.pi * (done - 0.2) / 0.8)) if schedule == "cosine" else np.ones(20)
    share = np.where(done < 0.2, done / 0.2, np.maximum(after, 1e-3))
    np.testing.assert_allclose(np.array(rates), share[:, None] * [0.02, 0.04])


def test_early_stopping_resumed_equals_uninterrupted(fabric: Fabric, tmp_path: Path) -> None:
    training = TrainingSettings(patience=1, batch=8)
    for epochs in (3, 4):
        with pytest.raises(CancelledError):
            trained(fabric, training, tmp_path, StopAfter(epochs - 2))
    assert_same(trained(fabric, training, tmp_path), trained(fabric, training))


# --- rounds of refinement ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier() -> LandCoverModel:
    torch.manual_seed(0)
    return LandCoverModel(tiny_architecture()).eval()


def refined(
    classifier: LandCoverModel,
    fabric: Fabric,
    decoder: str,
    folder: Path | None = None,
    reporter: Reporter | None = None,
    masks: Tensor = MASKS,
) -> Refinement:
    settings = RefinementSettings(decoder=decoder, refine_epochs=3, ema_decay=0.5, stop_change=0)  # type: ignore[arg-type]
    training, evidence = TrainingSettings(batch=8, learning_rate=3e-3), {"vit": 1.0}
    return refine(
        classifier, evidence, settings, TILES, masks, HELD_OUT, training, fabric, reporter or Reporter(), folder
    )


@pytest.mark.parametrize("decoder", ["unet", "segmenter"])
def test_a_refinement_interrupted_in_every_epoch_equals_an_uninterrupted_one(
    classifier: LandCoverModel, fabric: Fabric, tmp_path: Path, decoder: str
) -> None:
    expected = refined(classifier, fabric, decoder)
    assert len(expected.rounds) == 2
    for _ in range(3 + 2 - 1):  # epochs of both rounds but the last
        with pytest.raises(CancelledError):
            refined(classifier, fabric, decoder, tmp_path, StopAfter(1))
    result = refined(classifier, fabric, decoder, tmp_path)
    assert result.rounds == expected.rounds  # held-out losses included, so that a refused round counts, too
    first, second = result.model.state_dict(), expected.model.state_dict()
    assert list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("other", ["pseudomasks", "classifier"])
def test_checkpoints_of_another_refinement_are_refused(
    classifier: LandCoverModel, fabric: Fabric, tmp_path: Path, other: str
) -> None:
    with pytest.raises(CancelledError):
        refined(classifier, fabric, "unet", tmp_path, StopAfter(1))
    masks = MASKS.where(MASKS != 1, 0) if other == "pseudomasks" else MASKS
    model = LandCoverModel(tiny_architecture()).eval() if other == "classifier" else classifier
    with pytest.raises(InputError, match=r"round_1\.checkpoint does not fit") as raised:
        refined(model, fabric, "unet", tmp_path, masks=masks)
    assert raised.value.parameter == "resume"


# --- damaged checkpoints ----------------------------------------------------------------------------------------------


def interrupted(fabric: Fabric, folder: Path) -> Path:
    network, x, y = line()
    with pytest.raises(CancelledError):
        fit(phase_of(network, x, y, 4), TrainingSettings(), fabric, StopAfter(2), folder)
    (file,) = folder.iterdir()
    return file


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "flipped header"])
def test_a_damaged_checkpoint_is_an_input_error(fabric: Fabric, tmp_path: Path, damage: str) -> None:
    file = interrupted(fabric, tmp_path)
    whole = file.read_bytes()
    broken = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"no checkpoint at all, but a text of some length",
        "flipped header": whole[:8] + b"\xff" + whole[9:],
    }
    file.write_bytes(broken[damage])
    network, x, y = line()
    with pytest.raises(InputError) as raised:
        fit(phase_of(network, x, y, 4), TrainingSettings(), fabric, Reporter(), tmp_path)
    assert raised.value.parameter == "resume" and file.name in raised.value.message


def test_a_checkpoint_of_another_network_is_an_input_error(fabric: Fabric, tmp_path: Path) -> None:
    interrupted(fabric, tmp_path)
    network = nn.Linear(5, 1)
    phase = Phase("line", network, lambda p: network(torch.ones(len(p), 5)).mean(), 8, 4)
    with pytest.raises(InputError) as raised:
        fit(phase, TrainingSettings(), fabric, Reporter(), tmp_path)
    assert raised.value.parameter == "resume"
