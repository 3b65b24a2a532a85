"""From image-level labels to a pruned transformer and a spectral network, with the controls that make it honest."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from sparsevit.errors import InputError
from sparsevit.models.gates import GateMode
from sparsevit.models.landcover import Architecture, LandCoverModel, TagTransformer
from sparsevit.models.vit import REFERENCE_TILE, ViTConfig, ViTOutput, preset_config
from sparsevit.models.weaktr import MAP_METHODS, WeakTr, WeakTrConfig, WeakTrOutput, token_maps, weaktr_config
from sparsevit.reporting import Reporter
from sparsevit.settings import STRICT
from sparsevit.training.augment import random_dihedral
from sparsevit.training.head_budget import BudgetSettings, HeadBudget, heads_to_keep, random_mask
from sparsevit.training.loop import Phase, TrainingSettings, fit, parameter_groups, seed_for
from sparsevit.training.losses import balance, class_fractions, fraction_loss, tag_loss, tag_probability
from sparsevit.training.metrics import TagScores, tag_scores
from sparsevit.training.start import Start
from sparsevit.training.tiles import TaggedTiles
from sparsevit.training.weaktr import faithful_loss, repaired_loss

SPECTRAL_WIDTH = 64
SPECTRAL_GRID = 16
"""Pixels per side of a tile that the spectral network is trained on."""
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


@plain_dataclass(frozen=True)
class TrainedClassifier:
    """A pruned classifier and what is known about it.

    Attributes:
        model: Transformer (pruned) and spectral network.
        head_mask: For each block, which heads survived.
        head_gates: P(open) of the same heads at the end of the gate phase; empty without one.
        scores: Scores on the validation tiles of the classifier; empty without validation tiles.
        controls: The same for `random_heads`, `all_heads`.
    """

    model: LandCoverModel
    head_mask: list[list[bool]]
    head_gates: list[list[float]]
    scores: TagScores | None
    controls: dict[str, TagScores]


class ClassifierTraining:
    """The phases of training over one set of tiles; each method is one phase."""

    def __init__(
        self, model: LandCoverModel, tiles: TaggedTiles, training: TrainingSettings, fabric: Fabric, folder: Path | None
    ) -> None:
        self.model, self.tiles, self.training, self.fabric, self.folder = model, tiles, training, fabric, folder
        self.weights = balance(tiles.tags).to(fabric.device)

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
        return loss + fraction_loss(output.token_logits, valid, tags, self.tiles.presence_threshold, self.weights)

    def spectral(self, epochs: int, reporter: Reporter) -> None:
        """Train the per-pixel network with class-fraction pooling alone.

        A few hundred pixels tell the fractions of a tile nearly as well as all do, and far more epochs fit into the
        same time; flips and turns see to it that other pixels come each time.
        """
        network = self.model.spectral
        assert network is not None
        stride = max(self.tiles.store.values.shape[-1] // SPECTRAL_GRID, 1)

        def loss(positions: Tensor) -> Tensor:
            z, valid, tags = self._batch(positions)
            logits, valid = network(z, stride), valid[:, ::stride, ::stride]
            return fraction_loss(logits, valid, tags, self.tiles.presence_threshold, self.weights)

        # A hundred times fewer weights than the transformer: it wants larger steps.
        phase = Phase(
            "spectral", network, loss, len(self.tiles), epochs, learning_rate=10 * self.training.learning_rate
        )
        fit(phase, self.training, self.fabric, reporter, self.folder)

    def dense(self, epochs: int, validate: Callable[[], float] | None, reporter: Reporter) -> None:
        """Train the transformer with all heads."""
        vit = self._vit(self.model)
        vit.set_gate_mode(GateMode.OPEN)

        def loss(positions: Tensor) -> Tensor:
            z, valid, tags = self._batch(positions)
            return self.tag_losses(vit(z), valid, tags)

        phase = Phase("transformer", vit, loss, len(self.tiles), epochs, validate=validate)
        fit(phase, self.training, self.fabric, reporter, self.folder)

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
        fit(phase, self.training, self.fabric, reporter, self.folder)
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
        self, dense: TagTransformer, mask: list[Tensor], name: str, settings: ClassifierSettings, reporter: Reporter
    ) -> TagTransformer:
        """A copy of the dense transformer with only these heads, after as many epochs as gates and their heads get."""
        vit = copy.deepcopy(dense).requires_grad_(True)
        vit.prune(mask)
        self.fabric.to_device(vit)
        self.finetune(vit, name, dense, settings, settings.gate_epochs + settings.finetune_epochs, reporter)
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

        rate = self.training.learning_rate / 2
        phase = Phase(name, vit, loss, len(self.tiles), epochs, learning_rate=rate)
        fit(phase, self.training, self.fabric, reporter, self.folder)

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


@torch.inference_mode()
def vit_tag_logits(
    model: LandCoverModel, tiles: TaggedTiles, fabric: Fabric, vit: TagTransformer | None = None, batch: int = 64
) -> tuple[Tensor, float]:
    """Tag logits `[N, K]` of the transformer, and their loss against the tags.

    They are the mean of those of the class tokens and those of the patches, by class fractions where those are trained.

    Args:
        model: A classifier; it normalises the tiles.
        tiles: Tiles with tags.
        fabric: Device and precision.
        vit: The transformer to ask; that of the model if left out.
        batch: Tiles per forward pass.
    """
    vit = vit or model.vit
    assert vit is not None
    was_training = vit.training
    vit.eval()
    logits = []
    for positions in torch.arange(len(tiles)).split(batch):
        raw = tiles.store.batch(positions).to(fabric.device)
        with fabric.autocast():
            output = vit(model.normalise(raw))
        joint = output.tags.float()
        if isinstance(output, WeakTrOutput) and is_faithful(model):
            joint = (joint + output.coarse_tags.float()) / 2
        elif output.token_logits is not None:
            valid = F.adaptive_avg_pool2d(torch.isfinite(raw).any(1).float(), output.token_logits.shape[2:])
            fractions = class_fractions(F.log_softmax(output.token_logits.float(), 1), valid)
            joint = (joint + tag_probability(fractions, tiles.presence_threshold)) / 2
        logits.append(joint.cpu())
    vit.train(was_training)
    joined = torch.cat(logits)
    return joined, float(tag_loss(joined, tiles.tags))


def train_classifier(
    architecture: Architecture,
    statistics: tuple[Tensor, Tensor],
    tiles: TaggedTiles,
    validation: TaggedTiles | None,
    settings: ClassifierSettings,
    budget: BudgetSettings,
    training: TrainingSettings,
    fabric: Fabric,
    reporter: Reporter,
    folder: Path | None = None,
    start: Start | None = None,
) -> TrainedClassifier:
    """Train on tags: spectral network; dense transformer; gates; fine-tuning; controls.

    Args:
        architecture: Networks to train, before pruning.
        statistics: Mean and standard deviation of each band `[C]`.
        tiles: Training tiles.
        validation: Held-out tiles for the scores; none to skip them.
        settings: Phases.
        budget: How many heads survive, and whether to train the controls.
        training: Optimiser, batch, seed.
        fabric: Device and precision.
        reporter: Progress and metrics.
        folder: Folder of checkpoints; none to keep none.
        start: See `untrained`.
    """
    model = untrained(architecture, statistics, training.seed, fabric, start)
    run = ClassifierTraining(model, tiles, training, fabric, folder)
    share = 0.55 if budget.controls else 0.9
    run.spectral(settings.spectral_epochs, reporter.part(0, 0.1, "spectral network"))
    validate = (lambda: vit_tag_logits(model, validation, fabric)[1]) if validation else None
    run.dense(settings.epochs, validate, reporter.part(0.1, 0.75 * share, "transformer"))
    assert model.vit is not None
    dense = copy.deepcopy(model.vit).eval().requires_grad_(False)
    heads = model.vit.heads
    keep = heads_to_keep(budget.heads_kept, sum(heads))
    mask, gates = [torch.ones(h, dtype=torch.bool) for h in heads], list[list[float]]()
    if keep < sum(heads):
        part = reporter.part(0.75 * share, share, "choosing heads")
        mask, gates = run.choose_heads(dense, keep, settings, part)
    scores = vit_scores(model, validation, fabric) if validation else None
    controls: dict[str, TagScores] = {}
    if budget.controls and validation and keep < sum(heads):
        masks = {
            "random_heads": random_mask(heads, keep, training.seed),
            "all_heads": [torch.ones(h, dtype=torch.bool) for h in heads],
        }
        for i, (name, control) in enumerate(masks.items()):
            part = reporter.part(share + i * (1 - share) / 2, share + (i + 1) * (1 - share) / 2, f"control: {name}")
            controls[name] = vit_scores(model, validation, fabric, run.pruned(dense, control, name, settings, part))
    if isinstance(model.vit, WeakTr):
        set_peaks(model, model.vit, tiles, fabric)
    pruned = Architecture(**(vars(architecture) | {"vit": model.vit.config}))
    model.architecture = pruned
    return TrainedClassifier(model.eval(), [m.tolist() for m in mask], gates, scores, controls)


def is_faithful(model: LandCoverModel) -> bool:
    """Whether the transformer is WeakTr as published, which does not train class fractions."""
    return isinstance(model.vit, WeakTr) and model.vit.config.mode == "faithful"


@torch.inference_mode()
def set_peaks(model: LandCoverModel, network: WeakTr, tiles: TaggedTiles, fabric: Fabric, batch: int = 64) -> None:
    """Measure how high the map of each class usually gets where it occurs: the mean over its tiles of the maximum."""
    network.eval()
    highest = []
    for positions in torch.arange(len(tiles)).split(batch):
        with fabric.autocast():
            output = network(model.normalise(tiles.store.batch(positions).to(fabric.device)))
        highest.append(torch.stack([token_maps(output, m).float().amax((2, 3)).cpu() for m in MAP_METHODS], dim=1))
    present = (tiles.tags == 1).float()[:, None]  # (N, 1, K)
    peaks = (torch.cat(highest) * present).sum(0) / present.sum(0).clamp_min(1)
    network.peaks.copy_(peaks)


def untrained(
    architecture: Architecture, statistics: tuple[Tensor, Tensor], seed: int, fabric: Fabric, start: Start | None = None
) -> LandCoverModel:
    """A model before training.

    Args:
        architecture: Its networks.
        statistics: Mean and standard deviation of each band `[C]`.
        seed: Of the random weights.
        fabric: Device and precision.
        start: What the transformer starts from; random weights if left out.
    """
    torch.manual_seed(seed)
    model = LandCoverModel(architecture)
    if start and model.vit is not None:
        start.give_to(model.vit)
    model.mean.copy_(statistics[0])
    model.std.copy_(statistics[1])
    fabric.to_device(model)
    return model


def vit_scores(
    model: LandCoverModel, validation: TaggedTiles, fabric: Fabric, vit: TagTransformer | None = None
) -> TagScores:
    """Scores of the tags of held-out tiles; the arguments are those of `vit_tag_logits`."""
    logits, loss = vit_tag_logits(model, validation, fabric, vit)
    return tag_scores(logits, validation.tags, loss)


def architecture_for(
    channels: int,
    classes: int,
    tile: int,
    gsd: float,
    settings: ClassifierSettings,
    start: Start | None = None,
) -> Architecture:
    """The networks of a classifier: a transformer of the preset and the spectral network, equally weighted.

    Args:
        channels: Input bands.
        classes: Land-cover classes.
        tile: Side of a tile (pixels).
        gsd: Ground sampling distance (m).
        settings: Preset and patch size.
        start: Pretrained encoder, whose shape takes the place of the preset's.

    Raises:
        InputError: The preset needs tiles of another size.
    """
    if start is None and settings.preset == "reference" and tile != REFERENCE_TILE:
        raise InputError(
            f"The preset 'reference' needs tiles of {REFERENCE_TILE} pixels, these have {tile}.",
            "preset",
            f"Cut tiles of {REFERENCE_TILE * gsd:g} m, or choose another preset.",
        )
    wanted = max(settings.patch_size_m / gsd, 1)
    patch = min(
        (p for p in range(1, tile + 1) if tile % p == 0), key=lambda p: abs(p - wanted)
    )  # a whole number of patches
    if start is None:
        gated = preset_config(settings.preset, channels, classes, tile, patch)
    else:
        gated = start.encoder.config(channels, classes, tile, patch)
    vit: ViTConfig | WeakTrConfig = gated
    if settings.network != "gated":
        vit = weaktr_config(gated, "faithful" if settings.network == "weaktr_faithful" else "repaired")
    return Architecture(channels, classes, tile, vit, SPECTRAL_WIDTH, "", {"vit": 0.5, "spectral": 0.5})
