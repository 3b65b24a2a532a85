"""The phases in which a classifier learns tags: spectral network, all heads, closing gates, surviving heads."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from sparsevit.models.gates import GateMode
from sparsevit.models.landcover import LandCoverModel, TagTransformer
from sparsevit.models.spectral import SpectralNetwork
from sparsevit.models.vit import ViTOutput
from sparsevit.models.weaktr import WeakTrOutput
from sparsevit.reporting import Reporter
from sparsevit.settings import STRICT
from sparsevit.training.augment import random_dihedral
from sparsevit.training.checkpoint import fingerprint, fingerprint_of
from sparsevit.training.head_budget import HeadBudget
from sparsevit.training.loop import Phase, TrainingSettings, fit, parameter_groups, seed_for
from sparsevit.training.losses import SLOPE, balance, fraction_loss, learning_slope, tag_loss
from sparsevit.training.scoring import is_faithful
from sparsevit.training.threshold import WithThreshold
from sparsevit.training.tiles import TaggedTiles
from sparsevit.training.weaktr import faithful_loss, repaired_loss

SPECTRAL_GRID = 16
"""Pixels per side of a tile that the spectral network is trained on."""
THRESHOLD_LEARNING_RATE = 0.05
"""Peak learning rate of the logarithm of the presence threshold, which has a long way to go in few steps."""
IMPORTANCE_BATCH = 4
"""Tiles whose gradients are summed before their absolute value counts."""
TINY = 1e-12


@dataclass(frozen=True, config=STRICT)
class ClassifierSettings:
    """The gated vision transformer and the phases of its training."""

    network: Literal["gated", "weaktr", "weaktr_faithful"] = Field(
        default="gated",
        description="Transformer. gated: one class token, class maps of the patches; weaktr: one token per class and "
        "fused attention (WeakTr, repaired); weaktr_faithful: the same as published.",
    )
    preset: Literal["tiny", "small", "base", "reference"] = Field(
        default="tiny",
        description="Size of the transformer. tiny: width 128, 6 blocks of 4 heads; small: 256, 8 × 8; base: 768, "
        "12 × 12; reference: the published model, width 1024, 12 × 16, 14-pixel patches of 224-pixel tiles.",
    )
    patch_size_m: float = Field(default=40.0, gt=0, description="Side of a token's patch (m); 'reference' ignores it.")
    epochs: int = Field(default=40, ge=1, description="Epochs with all heads, before the gates join.")
    gate_epochs: int = Field(default=8, ge=1, description="Epochs in which the gates close down to the head budget.")
    finetune_epochs: int = Field(default=16, ge=0, description="Epochs of the surviving heads after that.")
    gate_learning_rate: float = Field(
        default=0.05, gt=0, description="Learning rate of the gates, which are an optimiser group of their own."
    )
    gate_penalty: float = Field(
        default=0.1, ge=0, description="Weight λ of the mean probability that a gate is open (Louizos et al. 2018)."
    )
    distillation: float = Field(
        default=1.0, ge=0, description="Weight of staying close to the unpruned transformer while heads close."
    )
    spectral_epochs: int = Field(default=240, ge=1, description="Epochs of the per-pixel spectral network.")

    @property
    def pruning_epochs(self) -> int:
        """Epochs after those with all heads."""
        return self.gate_epochs + self.finetune_epochs


class ClassifierTraining:
    """The phases of training over one set of tiles; each method is one phase. `slope`: see `losses.learning_slope`."""

    def __init__(
        self,
        model: LandCoverModel,
        tiles: TaggedTiles,
        training: TrainingSettings,
        fabric: Fabric,
        folder: Path | None,
        slope: float = SLOPE,
    ) -> None:
        self.model, self.tiles, self.training, self.fabric, self.folder = model, tiles, training, fabric, folder
        self.slope = slope
        self.weights = balance(tiles.tags).to(fabric.device)
        self.data = fingerprint_of(model, tiles.tags)

    def _fit(self, phase: Phase, reporter: Reporter, *depends: object) -> None:
        """Train a phase; its checkpoint is good for the same tags, threshold, and what else it depends on."""
        data = fingerprint(self.data, self.tiles.presence_threshold, *depends)
        fit(replace(phase, data=data), self.training, self.fabric, reporter, self.folder)

    def _batch(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised tiles, their valid mask and their tags, randomly flipped and turned."""
        (raw,) = random_dihedral([self.tiles.store.batch(positions)])
        raw = raw.to(self.fabric.device)
        return self.model.normalise(raw), torch.isfinite(raw).any(1), self.tiles.tags[positions].to(self.fabric.device)

    def tag_losses(self, output: ViTOutput | WeakTrOutput, valid: Tensor, tags: Tensor) -> Tensor:
        """Loss of tags: of the class token and the class fractions of the patch tokens, or that of WeakTr."""
        if isinstance(output, WeakTrOutput):
            if is_faithful(self.model):
                return faithful_loss(output, tags)
            return repaired_loss(output, valid, tags, self.tiles.presence_threshold, self.weights)
        loss = tag_loss(output.tags, tags, self.weights)
        if output.token_logits is None:
            return loss
        return loss + self._fraction_loss(output.token_logits, valid, tags)

    def spectral(self, settings: ClassifierSettings, reporter: Reporter) -> None:
        """Train the per-pixel network with class-fraction pooling alone, once the threshold of the tags is known."""
        if not self.tiles.threshold_known:
            self._learn_threshold(settings, reporter.part(0, 0.5))
            reporter = reporter.part(0.5, 1)
        self._fit_spectral("spectral", self._spectral(), settings, self._fraction_loss, [], reporter)

    def _learn_threshold(self, settings: ClassifierSettings, reporter: Reporter) -> None:
        """Learn the presence threshold beside the per-pixel network; all later phases believe in it.

        The slope is steep here: by a gentle one made-up tags from 3 % were explained best by the lowest threshold.
        """
        learner = WithThreshold(self._spectral(), self.tiles)
        if not learner.contrast:
            reporter.log(
                "The tags name hardly any class as absent, so that no presence threshold can be learned: "
                f"{self.tiles.presence_threshold:.1%} of a tile holds. Tag tiles completely, or tell the threshold.",
                "warning",
            )
            self.tiles = self.tiles.with_threshold(self.tiles.presence_threshold)
            return
        self.fabric.to_device(learner)

        def loss(logits: Tensor, valid: Tensor, tags: Tensor) -> Tensor:
            return fraction_loss(logits, valid, tags, learner.threshold, self.weights, SLOPE)

        own = {"params": [learner.log_threshold], "weight_decay": 0.0, "lr": THRESHOLD_LEARNING_RATE}
        self._fit_spectral("threshold", learner, settings, loss, [own], reporter, lambda _: learner.project())
        self.tiles = self.tiles.with_threshold(learner.threshold.item())
        reporter.log(f"The tags look as if a class is tagged from {self.tiles.presence_threshold:.1%} of a tile.")

    def _fit_spectral(
        self,
        name: str,
        network: nn.Module,
        settings: ClassifierSettings,
        loss_of: Callable[[Tensor, Tensor, Tensor], Tensor],
        more: list[dict[str, Any]],
        reporter: Reporter,
        after_step: Callable[[float], None] | None = None,
    ) -> None:
        """Train the per-pixel network, or what holds it.

        A few hundred pixels tell the fractions of a tile nearly as well as all do, and far more epochs fit into the
        same time; flips and turns see to it that other pixels come each time.

        Args:
            name: Of the phase.
            network: What is trained and resumed.
            settings: Epochs.
            loss_of: Loss of class logits, valid pixels and tags.
            more: Parameters beside those of the per-pixel network.
            reporter: Progress.
            after_step: See `Phase`.
        """
        spectral = self._spectral()
        stride = max(self.model.architecture.tile // SPECTRAL_GRID, 1)

        def loss(positions: Tensor) -> Tensor:
            z, valid, tags = self._batch(positions)
            return loss_of(spectral(z, stride), valid[:, ::stride, ::stride], tags)

        groups = parameter_groups(spectral, self.training.weight_decay) + more
        # A hundred times fewer weights than the transformer: it wants larger steps.
        rate = 10 * self.training.learning_rate
        phase = Phase(
            name, network, loss, len(self.tiles), settings.spectral_epochs, groups, after_step, learning_rate=rate
        )
        self._fit(phase, reporter)

    def _fraction_loss(self, logits: Tensor, valid: Tensor, tags: Tensor) -> Tensor:
        threshold = self.tiles.presence_threshold
        return fraction_loss(logits, valid, tags, threshold, self.weights, learning_slope(threshold, self.slope))

    def _spectral(self) -> SpectralNetwork:
        assert self.model.spectral is not None
        return self.model.spectral

    def dense(self, epochs: int, validate: Callable[[], float] | None, reporter: Reporter) -> None:
        """Train the transformer with all heads."""
        vit = self._vit(self.model)
        vit.set_gate_mode(GateMode.OPEN)

        def loss(positions: Tensor) -> Tensor:
            z, valid, tags = self._batch(positions)
            return self.tag_losses(vit(z), valid, tags)

        self._fit(Phase("transformer", vit, loss, len(self.tiles), epochs, validate=validate), reporter)

    def close_gates(
        self, teacher: TagTransformer, keep: int, settings: ClassifierSettings, reporter: Reporter
    ) -> HeadBudget:
        """Let the heads compete until `keep` are left; the budget knows which."""
        vit = self._vit(self.model)
        budget = HeadBudget(vit.gates(), keep)
        vit.set_gate_mode(GateMode.SAMPLE)
        gates = [g.log_alpha for g in vit.gates()]
        ids = {id(p) for p in gates}
        groups = parameter_groups(vit, self.training.weight_decay)
        groups = [g | {"params": [p for p in g["params"] if id(p) not in ids]} for g in groups]
        groups.append({"params": gates, "weight_decay": 0.0, "lr": settings.gate_learning_rate})

        def loss(positions: Tensor) -> Tensor:
            z, valid, tags = self._batch(positions)
            task = self._distilled(vit(z), teacher, z, valid, tags, settings.distillation)
            return task + settings.gate_penalty * budget.penalty()

        rate = self.training.learning_rate / 2
        phase = Phase("gates", vit, loss, len(self.tiles), settings.gate_epochs, groups, budget.project, None, rate)
        self._fit(phase, reporter, keep, settings.gate_penalty, settings.gate_learning_rate, settings.distillation)
        return budget

    def choose_heads(
        self, teacher: TagTransformer, keep: int, settings: ClassifierSettings, reporter: Reporter
    ) -> tuple[list[Tensor], list[list[float]]]:
        """Close gates down to `keep` heads, cut the others out, and train the rest on.

        Returns:
            One mask per block, and P(open) of every head when the budget was met.
        """
        budget = self.close_gates(teacher, keep, settings, reporter.part(0, 0.6, "closing heads"))
        vit, mask, gates = self._vit(self.model), budget.mask(), budget.open_probability()
        vit.prune(mask)
        vit.set_gate_mode(GateMode.OPEN)
        self.fabric.to_device(vit)
        part = reporter.part(0.6, 1, "surviving heads")
        self.finetune(vit, "surviving_heads", teacher, settings, settings.finetune_epochs, part)
        return mask, gates

    def importance(self, vit: TagTransformer) -> list[Tensor]:
        """How much the loss would change without each head, to first order: one score per head and block.

        The mean over small batches of |∂L/∂g| at an open gate g = 1, divided by the norm of its block, so that blocks
        of larger gradients do not win (Michel et al. 2019, eq. 2; Molchanov et al. 2017).
        """
        torch.manual_seed(seed_for(self.training, "importance", 0))
        gates = [torch.ones(heads, device=self.fabric.device, requires_grad=True) for heads in vit.heads]
        hooks = [
            layer.register_forward_hook(lambda *_, gate=gate: gate)
            for layer, gate in zip(vit.gates(), gates, strict=True)
        ]
        scores = [torch.zeros_like(gate) for gate in gates]
        for positions in torch.arange(len(self.tiles)).split(IMPORTANCE_BATCH):
            z, valid, tags = self._batch(positions)
            loss = self.tag_losses(vit(z), valid, tags)
            for score, gradient in zip(scores, torch.autograd.grad(loss, gates), strict=True):
                score += gradient.abs()
        for hook in hooks:
            hook.remove()
        return [(score / score.norm().clamp_min(TINY)).cpu() for score in scores]

    def pruned(
        self,
        dense: TagTransformer,
        mask: list[Tensor],
        name: str,
        settings: ClassifierSettings,
        epochs: int,
        reporter: Reporter,
    ) -> TagTransformer:
        """A copy of the dense transformer with only these heads, trained on."""
        vit = copy.deepcopy(dense).requires_grad_(True)
        vit.prune(mask)
        self.fabric.to_device(vit)
        self.finetune(vit, name, dense, settings, epochs, reporter)
        return vit

    def finetune(
        self,
        vit: TagTransformer,
        name: str,
        teacher: TagTransformer,
        settings: ClassifierSettings,
        epochs: int,
        reporter: Reporter,
    ) -> None:
        """Train the surviving heads on, close to the unpruned transformer."""

        def loss(positions: Tensor) -> Tensor:
            z, valid, tags = self._batch(positions)
            return self._distilled(vit(z), teacher, z, valid, tags, settings.distillation)

        phase = Phase(name, vit, loss, len(self.tiles), epochs, learning_rate=self.training.learning_rate / 2)
        self._fit(phase, reporter, settings.distillation)

    def _distilled(
        self,
        output: ViTOutput | WeakTrOutput,
        teacher: TagTransformer,
        z: Tensor,
        valid: Tensor,
        tags: Tensor,
        weight: float,
    ) -> Tensor:
        loss = self.tag_losses(output, valid, tags)
        if weight == 0 or output.token_logits is None:
            return loss
        with torch.no_grad():
            target = teacher(z).token_logits
        assert target is not None
        gap = F.kl_div(
            F.log_softmax(output.token_logits.float(), 1),
            F.log_softmax(target.float(), 1),
            log_target=True,
            reduction="none",
        )
        return loss + weight * gap.sum(1).mean()

    def _vit(self, model: LandCoverModel) -> TagTransformer:
        assert model.vit is not None
        return model.vit
