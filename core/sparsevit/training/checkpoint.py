"""Checkpoints of an unfinished training phase, as safetensors: weights, optimiser state, counters. Never pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsevit.errors import InputError
from sparsevit.models.landcover import LandCoverModel
from sparsevit.outputs import whole_file


@dataclass
class Checkpoint:
    """Counters of a phase, the best weights so far where early stopping keeps them, and what run it belongs to."""

    run: str = ""

    epoch: int = 0
    best_value: float = float("inf")
    since_best: int = 0
    best: dict[str, Tensor] | None = None


def save_checkpoint(path: Path, network: nn.Module, optimiser: Optimizer, state: Checkpoint) -> None:
    """Write everything that the next epoch depends on."""
    tensors: dict[str, Tensor] = {f"network.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in (state.best or {}).items()}
    plain: dict[str, Any] = {}
    for index, entries in optimiser.state_dict()["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimiser.{index}.{key}"] = value
            else:
                plain[f"{index}.{key}"] = value
    card = {
        "run": state.run,
        "epoch": state.epoch,
        "best_value": state.best_value,
        "since_best": state.since_best,
        "plain": plain,
    }
    with whole_file(path) as partial:
        contiguous = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        save_file(contiguous, partial, metadata={"checkpoint": json.dumps(card)})


def load_checkpoint(path: Path, network: nn.Module, optimiser: Optimizer, run: str) -> Checkpoint:
    """Restore a network and its optimiser in place; `run` is the fingerprint of the run that wants to go on.

    Raises:
        InputError: The file is damaged or belongs to other settings.
    """
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads(file.metadata()["checkpoint"])
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        if card["run"] != run:
            raise KeyError("another run")
        network.load_state_dict(_below(tensors, "network."))
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as err:
        raise InputError(
            f"The checkpoint {path} does not fit this training.",
            "resume",
            "Use the same tiles, bands and settings, or start without it.",
        ) from err
    entries: dict[int, dict[str, Any]] = {}
    values: dict[str, Any] = {**card["plain"], **_below(tensors, "optimiser.")}
    for name, value in values.items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
    best = _below(tensors, "best.") or None
    return Checkpoint(run, card["epoch"], card["best_value"], card["since_best"], best)


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def fingerprint(*parts: object) -> str:
    """A short digest of anything printable, to recognise the same data or settings."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:16]


def fingerprint_of(model: LandCoverModel, tags: Tensor, *more: object) -> str:
    """A fingerprint of a model before it learns, of the tags that it learns `[N, K]`, and of anything printable.

    The statistics tell one band from another, the weights one pretrained encoder, or one classifier, from another; in
    four digits, since those of two machines may differ in the last.
    """
    numbers = [*model.mean, *model.std, *(p.detach().double().sum() for p in model.parameters())]
    return fingerprint(tags.tolist(), [f"{float(number):.4g}" for number in numbers], *more)
