"""One training loop for every network, on Lightning Fabric."""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from sparsevit.errors import InputError
from sparsevit.models.hardware import HardwareSettings, resolve_device, resolve_precision
from sparsevit.reporting import Reporter
from sparsevit.settings import STRICT
from sparsevit.training import group
from sparsevit.training.checkpoint import Checkpoint, fingerprint, load_checkpoint, save_checkpoint

CLIP_NORM = 1.0


@dataclass(frozen=True, config=STRICT)
class TrainingSettings:
    """How the networks are trained."""

    optimiser: Literal["adamw", "adam", "sgd"] = Field(default="adamw", description="Optimiser.")
    learning_rate: float = Field(default=1e-3, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(
        default=0.05, ge=0, description="Weight decay; never applied to gates, norms and biases."
    )
    schedule: Literal["cosine", "constant"] = Field(
        default="cosine",
        description="cosine: linear warm-up, then a half cosine to zero; constant after the same warm-up.",
    )
    warmup: float = Field(default=0.1, ge=0, lt=1, description="Share of the steps spent on warm-up.")
    batch: int = Field(default=16, ge=1, description="Tiles per step.")
    accumulation: int = Field(default=1, ge=1, description="Steps whose gradients are summed before an update.")
    patience: int = Field(
        default=0,
        ge=0,
        description="Stop the first phase after so many epochs without a better validation loss; 0: never.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of everything random.")
    devices: int = Field(
        default=1, ge=1, description="Devices that share each batch: GPUs of this machine, or processes on its CPU."
    )


@plain_dataclass
class Phase:
    """One stretch of training.

    Attributes:
        name: Name in progress messages and of the checkpoint.
        network: What is trained.
        loss: Loss of the tiles at positions `[B]`, a scalar.
        count: Number of training tiles.
        epochs: Passes over them.
        parameters: Optimiser groups; those of `parameter_groups` if left out.
        after_step: Called with the share of the phase done (0–1) after each update.
        validate: Validation loss, for early stopping.
        learning_rate: Peak learning rate; that of the settings if left out.
        data: Digest of what is learned from what weights, so that no checkpoint of another training is resumed.
    """

    name: str
    network: nn.Module
    loss: Callable[[Tensor], Tensor]
    count: int
    epochs: int
    parameters: list[dict[str, Any]] | None = None
    after_step: Callable[[float], None] | None = None
    validate: Callable[[], float] | None = None
    learning_rate: float | None = None
    data: str = ""


def make_fabric(hardware: HardwareSettings) -> Fabric:
    """Fabric on the chosen device and precision."""
    device = resolve_device(hardware)
    precision: Any = resolve_precision(hardware, device)
    devices: Any = [group.rank()] if device.type == "cuda" else 1
    return Fabric(accelerator=device.type, devices=devices, precision=precision)


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups with weight decay on matrices and kernels only."""
    trained = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def seed_for(settings: TrainingSettings, phase: str, epoch: int) -> int:
    """A seed for one epoch, so that a resumed run draws what the uninterrupted one would have drawn."""
    return zlib.crc32(f"{settings.seed}/{phase}/{epoch}".encode())


def fit(
    phase: Phase, settings: TrainingSettings, fabric: Fabric, reporter: Reporter, checkpoints: Path | None = None
) -> None:
    """Train a network in place.

    Args:
        phase: What to train, on what, for how long.
        settings: Optimiser, schedule, batch, seed.
        fabric: Device and precision.
        reporter: Progress; asked before each step whether to stop.
        checkpoints: Folder of checkpoints. The phase goes on from its checkpoint if there is one.

    Raises:
        CancelledError: The user asked to stop.
        InputError: The training diverges, or the checkpoint is of another one.
    """
    network = fabric.setup_module(phase.network)
    groups = phase.parameters or parameter_groups(phase.network, settings.weight_decay)
    optimiser = _optimiser(groups, settings, phase.learning_rate or settings.learning_rate)
    wrapped: Any = fabric.setup_optimizers(optimiser)
    peaks = [g["lr"] for g in optimiser.param_groups]
    file = checkpoints / f"{phase.name}.checkpoint" if checkpoints else None
    run = fingerprint(settings, phase.name, phase.count, phase.epochs, phase.data)
    resumed = load_checkpoint(file, phase.network, optimiser, run) if file and file.is_file() else None
    state = resumed or Checkpoint(run)
    for epoch in range(state.epoch, phase.epochs):
        torch.manual_seed(seed_for(settings, phase.name, epoch))
        phase.network.train()
        order = torch.randperm(phase.count).split(settings.batch)
        losses = []
        for k, positions in enumerate(order):
            reporter.check()
            with fabric.autocast():
                loss = phase.loss(group.share_of(positions))
            fabric.backward(loss / settings.accumulation)
            losses.append(loss.detach())
            if (k + 1) % settings.accumulation == 0 or k + 1 == len(order):
                group.average_gradients(phase.network)
                fabric.clip_gradients(network, wrapped, max_norm=CLIP_NORM, error_if_nonfinite=False)
                done = (epoch + (k + 1) / len(order)) / phase.epochs
                for parameters, peak in zip(optimiser.param_groups, peaks, strict=True):
                    parameters["lr"] = peak * _rate(done, settings)
                wrapped.step()
                optimiser.zero_grad()
                if phase.after_step:
                    phase.after_step(done)
        group.average_buffers(phase.network)  # each device has seen other tiles, and all have to stop together
        reporter.metric(f"{phase.name}_loss", epoch, _mean_loss(losses, phase.name, epoch))
        reporter.progress((epoch + 1) / phase.epochs, f"epoch {epoch + 1} of {phase.epochs}")
        state.epoch = epoch + 1
        if _stops(phase, settings, state, reporter):
            state.epoch = phase.epochs
        if file and group.rank() == 0:
            save_checkpoint(file, phase.network, optimiser, state)
        if state.epoch == phase.epochs:
            break
    if state.best is not None:
        phase.network.load_state_dict(state.best)
    phase.network.eval()


def _mean_loss(losses: list[Tensor], phase: str, epoch: int) -> float:
    """The mean loss of an epoch on all devices, which have to stop together where it is no number any more."""
    mean = float(group.mean(torch.stack(losses).mean()))
    if math.isfinite(mean):
        return mean
    raise InputError(
        f"The training diverged: in epoch {epoch + 1} of '{phase}' the loss is no number any more.",
        None,
        "Use a smaller learning rate, or look for extreme values in the bands.",
    )


def _stops(phase: Phase, settings: TrainingSettings, state: Checkpoint, reporter: Reporter) -> bool:
    """Early stopping: keep the best weights, stop after `patience` epochs without a better validation loss."""
    if not settings.patience or phase.validate is None:
        return False
    phase.network.eval()
    value = phase.validate()
    reporter.metric(f"{phase.name}_validation_loss", state.epoch, value)
    if value < state.best_value:
        state.best_value, state.since_best = value, 0
        state.best = copy.deepcopy(phase.network.state_dict())
    else:
        state.since_best += 1
    if state.since_best >= settings.patience:
        reporter.log(f"{phase.name}: no better for {settings.patience} epochs, stopped after epoch {state.epoch}.")
        return True
    return False


def _rate(share: float, settings: TrainingSettings) -> float:
    """Share of the peak learning rate when `share` of the phase is done."""
    if share < settings.warmup:
        return max(share / settings.warmup, 1e-3)
    if settings.schedule == "constant":
        return 1.0
    return max(0.5 * (1 + math.cos(math.pi * (share - settings.warmup) / (1 - settings.warmup))), 1e-3)


def _optimiser(groups: list[dict[str, Any]], settings: TrainingSettings, rate: float) -> Optimizer:
    groups = [g for g in groups if g["params"]]
    if settings.optimiser == "sgd":
        return SGD(groups, lr=rate, momentum=0.9, nesterov=True)
    return (AdamW if settings.optimiser == "adamw" else Adam)(groups, lr=rate, betas=(0.9, 0.99))
