"""A vision transformer with one token per class: it says which classes occur, and where, from tags alone.

Method: the class activation stage of WeakTr (Zhu et al. 2023, arXiv 2304.01184), written from its equations. Class
tokens say where each class is without any naming of clusters; the patches' own class logits are spread along the
attention between patches. Heads carry gates (`models/gates.py`); what a closed gate means for the fusion is told in
`models/attention_fusion.py`.

Two modes:
    faithful: As published. The fusion sees detached attention, features and class logits, so that the loss of the fine
        map trains the fusion alone; attention is not normalised, so that the fine map starts near 0 and, never being
        negative, cannot say that a class is absent.
    repaired: Attention is normalised, evidence is spread between patches that resemble each other rather than to the
        patches that look at it, the fine map has a learned scale and shift per class before it counts as a prediction
        of tags, and its loss trains the whole network (unless `detached`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit.models.attention_fusion import (
    AttentionFusion,
    fine_cam,
    fuse_attention,
    normalise_attention,
    patch_similarity,
    split_attention,
)
from sparsevit.models.vit import Block, GatedTransformer, HeadStates, ViTConfig, patch_embedding

FusionMode = Literal["faithful", "repaired"]
Affinity = Literal["attention", "similarity"]
MapMethod = Literal["class_tokens", "fine_cam"]

INITIAL_SHIFT = -1.0
"""Shift of a repaired fine prediction before training: a class whose map is empty starts as absent (p = 0.27)."""


@dataclass(frozen=True)
class WeakTrConfig:
    """Shape of the network.

    Attributes:
        vit: Bands, classes, tile, patch and blocks; its token maps are not used.
        fusion_hidden: Width of the bottleneck in which heads see each other.
        feature_hidden: Width of the bottleneck of a head's feature.
        mode: `faithful` as published, or `repaired`; see the module.
        affinity: Along what the coarse map is spread: the `attention` between patches, as published, or the
            `similarity` of their queries and keys, see `attention_fusion.patch_similarity`.
        detached: Whether the loss of the fine map stops at the fusion.
    """

    vit: ViTConfig
    fusion_hidden: int
    feature_hidden: int
    mode: FusionMode = "repaired"
    affinity: Affinity = "similarity"
    detached: bool = False


class WeakTrOutput(NamedTuple):
    """What the network says about a batch of tiles; h, w are the patches along the sides.

    Attributes:
        tags: Tag logits of the class tokens `[B, K]`.
        coarse_tags: Tag logits of the coarse maps `[B, K]`.
        fine_tags: Tag logits of the fine maps `[B, K]`.
        cross: Where the class tokens look, ≥ 0 `[B, K, h, w]`.
        coarse: Class logits of the patches `[B, K, h, w]`.
        fine: Fine class activation maps, ≥ 0 `[B, K, h, w]`.
        head_weights: Weight of each head in each tile, block after block, 0 for closed heads `[B, Σ heads]`.
    """

    tags: Tensor
    coarse_tags: Tensor
    fine_tags: Tensor
    cross: Tensor
    coarse: Tensor
    fine: Tensor
    head_weights: Tensor

    @property
    def token_logits(self) -> Tensor:
        """Class logits of the patches, by the name that the gated transformer has for them."""
        return self.coarse


MAP_METHODS: tuple[MapMethod, ...] = ("class_tokens", "fine_cam")


def token_maps(output: WeakTrOutput, method: MapMethod) -> Tensor:
    """The maps of a method at patches `[B, K, h, w]`, ≥ 0.

    Args:
        output: What the network said about a batch.
        method: `class_tokens`: the positive class logits of patches, weighted by where the class tokens look;
            `fine_cam`: the same, spread along the affinity of patches.
    """
    return output.cross * F.relu(output.coarse) if method == "class_tokens" else output.fine


class WeakTr(GatedTransformer):
    """The transformer with class tokens, coarse maps, and attention fused to fine maps."""

    peaks: Tensor

    def __init__(self, config: WeakTrConfig) -> None:
        super().__init__()
        self.config = config
        vit = config.vit
        self.patch_embed = patch_embedding(vit)
        self.class_tokens = nn.Parameter(torch.randn(1, vit.classes, vit.width) * vit.embed_std)
        self.pos_embed = nn.Parameter(torch.randn(1, vit.classes + vit.grid**2, vit.width) * vit.embed_std)
        self.blocks = nn.ModuleList(Block(vit, heads) for heads in vit.heads)
        self.cam_head = nn.Conv2d(vit.width, vit.classes, 3, padding=1)
        self.fusion = AttentionFusion(sum(vit.heads), vit.head_width, config.fusion_hidden, config.feature_hidden)
        self.fine_head = FineHead(vit.classes) if config.mode == "repaired" else None
        # Maps are compared by what is usual where a class occurs, not by the tile: see `class_maps.normalise_maps`.
        self.register_buffer("peaks", torch.ones(len(MAP_METHODS), vit.classes))

    def forward(self, x: Tensor) -> WeakTrOutput:
        """Classify and localise.

        Args:
            x: Normalised tiles `[B, C, H, W]` of any size of at least one patch; what is left over beyond a whole
                number of patches, below and to the right, is not seen.
        """
        classes = self.config.vit.classes
        tokens, grid = self.embed(x)
        states: list[HeadStates] = []
        for block in self.blocks:
            assert isinstance(block, Block)
            tokens, heads = block.observe(tokens)
            states.append(heads)
        # The published network applies no norm to the last tokens.
        coarse = self.cam_head(tokens[:, classes:].transpose(1, 2).unflatten(2, grid))
        cross, affinity, weights = self.fused(states, grid)
        fine = fine_cam(coarse.detach() if self.config.detached else coarse, cross, affinity)
        fine_tags = fine.mean((2, 3)) if self.fine_head is None else self.fine_head(fine)
        return WeakTrOutput(tokens[:, :classes].mean(2), coarse.mean((2, 3)), fine_tags, cross, coarse, fine, weights)

    def embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens before the first block `[B, K+h·w, width]`, class tokens first, of tiles `[B, C, H, W]`; and h, w."""
        patches = self.patch_embed(x)
        grid = (patches.shape[2], patches.shape[3])
        tokens = torch.cat([self.class_tokens.expand(len(x), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        return tokens + self.positions(grid), grid

    def class_attention(self, x: Tensor) -> Tensor:
        """Where the class tokens look on average in every head of every block `[B, Σ heads, h, w]`, gated.

        Args:
            x: Normalised tiles `[B, C, H, W]`.
        """
        classes = self.config.vit.classes
        tokens, grid = self.embed(x)
        rows = []
        for block in self.blocks:
            assert isinstance(block, Block)
            tokens, heads = block.observe(tokens)
            looks = block.attn.attention(heads._replace(query=heads.query[:, :, :classes]))
            rows.append(looks[..., classes:].mean(2))
        maps: Tensor = torch.cat(rows, dim=1).unflatten(2, grid)
        return maps

    def fused(self, states: Sequence[HeadStates], grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """What all heads say together.

        Args:
            states: What the heads of each block did.
            grid: h, w.

        Returns:
            Attention of class tokens `[B, K, h, w]`; affinity of patches `[B, h·w, h·w]`; head weights `[B, Σ heads]`.
        """
        if self.config.detached:
            states = [_detached(s) for s in states]
        features = torch.cat([s.output.amax(2) for s in states], dim=1)  # (B, Σ heads, head_width)
        is_open = torch.cat([_is_open(s) for s in states])
        weights = self.fusion(features, is_open)
        classes, similar = self.config.vit.classes, self.config.affinity == "similarity"
        looks = [s._replace(query=s.query[:, :, :classes]) for s in states] if similar else states
        blocks = [b.attn for b in self.blocks if isinstance(b, Block)]
        fused = fuse_attention((b.attention(s) for b, s in zip(blocks, looks, strict=True)), weights, is_open)
        cross, affinity = split_attention(fused, classes, grid)
        if similar:
            affinity = fuse_attention((patch_similarity(s, classes) for s in states), weights, is_open)
        if self.config.mode == "repaired":
            cross, affinity = normalise_attention(cross, affinity)
        return cross, affinity, weights

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position embedding of class tokens and patches `[1, K+h·w, width]`, bicubic between the trained ones."""
        vit = self.config.vit
        if grid == (vit.grid, vit.grid):
            return self.pos_embed
        tokens, patches = self.pos_embed.split([vit.classes, vit.grid**2], dim=1)
        patches = patches.transpose(1, 2).unflatten(2, (vit.grid, vit.grid))
        patches = F.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
        return torch.cat([tokens, patches.flatten(2).transpose(1, 2)], dim=1)

    def prune(self, mask: Sequence[Tensor]) -> None:
        """Remove heads physically; afterwards the network equals the masked one and has open gates."""
        self.prune_blocks(mask)
        self.fusion.prune(torch.cat(list(mask)))
        vit = replace(self.config.vit, heads=tuple(int(m.sum()) for m in mask))
        self.config = replace(self.config, vit=vit)


class FineHead(nn.Module):
    """A fine map as a prediction of tags on both sides of zero: scale · mean + shift, per class."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(classes))
        self.shift = nn.Parameter(torch.full((classes,), INITIAL_SHIFT))

    def forward(self, fine: Tensor) -> Tensor:
        """Fine maps `[B, K, h, w]` to tag logits `[B, K]`."""
        return self.log_scale.exp() * fine.mean((2, 3)) + self.shift


def _detached(heads: HeadStates) -> HeadStates:
    gate = None if heads.gate is None else heads.gate.detach()
    return HeadStates(heads.output.detach(), heads.query.detach(), heads.key.detach(), gate)


def _is_open(heads: HeadStates) -> Tensor:
    """1 for open heads, 0 for closed ones `[heads]`."""
    if heads.gate is None:
        return torch.ones(heads.output.shape[1], device=heads.output.device)
    return (heads.gate.detach() > 0).float()


REDUCTION = 8
"""Heads per unit of the fusion's bottleneck, and channels per unit of a feature's: the recipe of the paper."""
LEAST_HIDDEN = 8
"""Least width of the fusion's bottleneck: with two or three units, all of them are often off and every weight is ½."""


def weaktr_config(vit: ViTConfig, mode: FusionMode = "repaired", reduction: int = REDUCTION) -> WeakTrConfig:
    """The network with class tokens on a transformer of this shape, with the defaults of its mode.

    Args:
        vit: Bands, classes, tile, patch and blocks.
        mode: `faithful` as published, or `repaired`.
        reduction: How much narrower the bottlenecks of the fusion are.
    """
    return WeakTrConfig(
        vit=replace(vit, token_maps=False, qkv_bias=True),  # as published
        fusion_hidden=max(sum(vit.heads) // reduction, LEAST_HIDDEN),
        feature_hidden=max(vit.head_width // reduction, 1),
        mode=mode,
        affinity="attention" if mode == "faithful" else "similarity",
        detached=mode == "faithful",
    )
