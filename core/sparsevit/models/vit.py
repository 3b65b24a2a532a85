"""A vision transformer whose attention heads carry gates, with tags on the class token and class maps on the patches.

Method: Hanna, Mommert & Borth 2023 (sparse multimodal ViT). One linear embedding over all channels is the same map as
the sum of one embedding per sensor, so early fusion of sensors is simply a stack with more bands. The presets for small
data see each pixel's neighbourhood before they cut patches (Xiao et al. 2021, arXiv 2106.14881).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit.models import torchvision_compat  # noqa: F401 (before timm)
from sparsevit.models.gates import GateMode, HeadGates

from timm.layers.mlp import Mlp  # isort: skip


@dataclass(frozen=True)
class ViTConfig:
    """Shape of the network.

    Attributes:
        channels: Input bands.
        classes: Land-cover classes.
        tile: Side of the input (pixels); a multiple of `patch`.
        patch: Side of a token's patch (pixels).
        width: Token width.
        heads: Number of heads of each block, in order; shrinks by pruning.
        head_width: Width of a head.
        mlp_width: Hidden width of the MLPs.
        token_maps: Whether patch tokens have their own class logits (not in the published model).
        embed_std: Standard deviation of the initial class token and position embedding.
        qkv_bias: Whether queries, keys and values have a bias.
        stem_width: Channels of two 3 × 3 convolutions before the patches; 0 for linear patches, as published.
    """

    channels: int
    classes: int
    tile: int
    patch: int
    width: int
    heads: tuple[int, ...]
    head_width: int
    mlp_width: int
    token_maps: bool = True
    embed_std: float = 0.02
    qkv_bias: bool = False
    stem_width: int = 0

    @property
    def grid(self) -> int:
        """Tokens along one side."""
        return self.tile // self.patch


class ViTOutput(NamedTuple):
    """What the transformer says about a batch of tiles.

    Attributes:
        tags: Logits of the class token `[B, C]`.
        token_logits: Class logits of the patch tokens `[B, C, h, w]`; None without token maps.
        attention: Gated attention of the last block `[B, heads, 1+h·w, 1+h·w]`, class token first; None unless asked.
    """

    tags: Tensor
    token_logits: Tensor | None
    attention: Tensor | None


class HeadStates(NamedTuple):
    """What the heads of one block did with a batch of tokens.

    Attributes:
        output: g · A V of each head, before the output projection `[B, heads, N, head_width]`.
        query: Queries `[B, heads, N, head_width]`.
        key: Keys `[B, heads, N, head_width]`.
        gate: Gate of each head `[heads]`, the draw that the output used; None when the gates are open.
    """

    output: Tensor
    query: Tensor
    key: Tensor
    gate: Tensor | None


class GatedAttention(nn.Module):
    """Multi-head self-attention with one gate per head; output projection with bias, qkv without unless asked."""

    def __init__(self, width: int, heads: int, head_width: int, qkv_bias: bool = False) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.qkv = linear(width, 3 * heads * head_width, bias=qkv_bias)
        self.proj = linear(heads * head_width, width)
        self.gates = HeadGates(heads)

    def forward(self, x: Tensor, need_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """Attend over tokens.

        Args:
            x: Tokens `[B, N, width]`.
            need_attention: Also return the gated attention `[B, heads, N, N]`.
        """
        heads = self.attend(x)
        return self.join(heads.output), self.attention(heads) if need_attention else None

    def attend(self, x: Tensor) -> HeadStates:
        """Every head's own output for tokens `[B, N, width]`."""
        batch, n, _ = x.shape
        if self.heads == 0:
            nothing = x.new_zeros(batch, 0, n, self.head_width)
            return HeadStates(nothing, nothing, nothing, None)
        q, k, v = self.qkv(x).view(batch, n, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)  # (B, H, N, d_h)
        out, gate = F.scaled_dot_product_attention(q, k, v), self.gates()
        if gate is not None:  # the same as gating the attention matrix: head ← g · A V
            out = out * gate[:, None, None].to(out.dtype)
        return HeadStates(out, q, k, gate)

    def attention(self, heads: HeadStates) -> Tensor:
        """The gated attention `[B, heads, N, N]` behind the output of `attend`."""
        weights = torch.softmax(heads.query @ heads.key.transpose(-2, -1) * self.head_width**-0.5, dim=-1)
        return weights if heads.gate is None else weights * heads.gate[:, None, None]

    def join(self, output: Tensor) -> Tensor:
        """Project the heads' outputs `[B, heads, N, head_width]` to tokens `[B, N, width]`."""
        batch, _, n, _ = output.shape
        if self.heads == 0:
            return self.proj.bias.expand(batch, n, -1)
        joined: Tensor = self.proj(output.transpose(1, 2).reshape(batch, n, -1))
        return joined

    @torch.no_grad()
    def prune(self, keep: Tensor) -> None:
        """Slice the heads that are not kept out of the projections; `keep` is a mask `[heads]`."""
        rows = keep.repeat_interleave(self.head_width)
        kept, width = int(keep.sum()), self.proj.out_features
        qkv = linear(self.qkv.in_features, 3 * kept * self.head_width, bias=self.qkv.bias is not None)
        qkv.weight.copy_(self.qkv.weight.view(3, -1, width)[:, rows].reshape(-1, width))
        if self.qkv.bias is not None:
            qkv.bias.copy_(self.qkv.bias.view(3, -1)[:, rows].flatten())
        proj = linear(kept * self.head_width, width)
        proj.weight.copy_(self.proj.weight[:, rows])
        proj.bias.copy_(self.proj.bias)
        self.heads, self.qkv, self.proj, self.gates = kept, qkv, proj, HeadGates(kept)


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A linear layer; with all heads removed it has no weights, about which torch would warn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        return nn.Linear(inputs, outputs, bias)


def patch_embedding(config: ViTConfig) -> nn.Module:
    """Tiles `[B, C, H, W]` to the tokens of their patches `[B, width, h, w]`: linear, or after a stem on pixels."""
    patches = nn.Conv2d(config.stem_width or config.channels, config.width, config.patch, config.patch)
    if not config.stem_width:
        return patches
    layers: list[nn.Module] = []
    for channels in (config.channels, config.stem_width):
        convolution = nn.Conv2d(channels, config.stem_width, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(config.stem_width), nn.GELU()]
    return nn.Sequential(*layers, patches)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: ViTConfig, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attn = GatedAttention(config.width, heads, config.head_width, config.qkv_bias)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = Mlp(config.width, config.mlp_width)

    def forward(self, x: Tensor, need_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """Tokens `[B, N, width]` to tokens, and the attention if asked."""
        x, heads = self.observe(x)
        return x, self.attn.attention(heads) if need_attention else None

    def observe(self, x: Tensor) -> tuple[Tensor, HeadStates]:
        """Tokens `[B, N, width]` to tokens, and what each head did."""
        heads = self.attn.attend(self.norm1(x))
        x = x + self.attn.join(heads.output)
        return x + self.mlp(self.norm2(x)), heads


def resampled_positions(embedding: Tensor, grid: int, size: Sequence[int]) -> Tensor:
    """The position embedding `[1, 1+grid², width]` for a grid of h × w patches `[1, 1+h·w, width]`.

    Bilinear between patch centres (Segmenter, Strudel et al. 2021); the class token keeps its own position.
    """
    if tuple(size) == (grid, grid):
        return embedding
    patches = embedding[:, 1:].transpose(1, 2).unflatten(2, (grid, grid))
    resampled = F.interpolate(patches, tuple(size), mode="bilinear", align_corners=False)
    return torch.cat([embedding[:, :1], resampled.flatten(2).transpose(1, 2)], dim=1)


class GatedTransformer(nn.Module):
    """Any network whose `blocks` have gated heads: what can be done to the heads of all of them."""

    blocks: nn.ModuleList

    @property
    def heads(self) -> list[int]:
        """Number of heads of every block, in order."""
        return [b.attn.heads for b in self.blocks if isinstance(b, Block)]

    def gates(self) -> list[HeadGates]:
        """The gates of every block, in order."""
        return [b.attn.gates for b in self.blocks if isinstance(b, Block)]

    def set_gate_mode(self, mode: GateMode) -> None:
        """Switch all gates."""
        for gate in self.gates():
            gate.mode = mode

    def set_head_mask(self, mask: Sequence[Tensor]) -> None:
        """Fix which heads are on: one mask `[heads]` per block."""
        for gate, keep in zip(self.gates(), mask, strict=True):
            gate.set_mask(keep)
        self.set_gate_mode(GateMode.THRESHOLD)

    def prune_blocks(self, mask: Sequence[Tensor]) -> None:
        """Slice the heads that are not kept out of every block: one mask `[heads]` per block."""
        for block, keep in zip(self.blocks, mask, strict=True):
            assert isinstance(block, Block)
            block.attn.prune(keep)


class SparseViT(GatedTransformer):
    """The gated vision transformer."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = patch_embedding(config)
        self.cls_token = nn.Parameter(torch.randn(1, 1, config.width) * config.embed_std)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + config.grid**2, config.width) * config.embed_std)
        self.blocks = nn.ModuleList(Block(config, h) for h in config.heads)
        self.head = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, config.classes))
        self.token_head: nn.Module | None = None
        if config.token_maps:
            self.token_head = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, config.classes))

    def forward(self, x: Tensor, need_attention: bool = False) -> ViTOutput:
        """Classify tiles.

        Args:
            x: Normalised tiles `[B, C, tile, tile]`; see `tokens` for other sizes.
            need_attention: Also return the attention of the last block.
        """
        tokens, attention = self.tokens(x, need_attention)
        maps = None
        if self.token_head is not None:
            grid = (x.shape[-2] // self.config.patch, x.shape[-1] // self.config.patch)
            maps = self.token_head(tokens[:, 1:]).transpose(1, 2).unflatten(2, grid)
        return ViTOutput(self.head(tokens[:, 0]), maps, attention)

    def tokens(self, x: Tensor, need_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """Encode tiles.

        Args:
            x: Normalised tiles `[B, C, H, W]` of any size; sides are multiples of the patch.
            need_attention: Also return the attention of the last block.

        Returns:
            Tokens of the last block `[B, 1+h·w, width]`, class token first, then patches row by row; its attention.
        """
        tokens, attention = self.embed(x), None
        for i, block in enumerate(self.blocks):
            tokens, attention = block(tokens, need_attention and i == len(self.blocks) - 1)
        return tokens, attention

    def embed(self, x: Tensor) -> Tensor:
        """Tokens before the first block `[B, 1+h·w, width]`, class token first, of tiles `[B, C, H, W]`."""
        patches = self.patch_embed(x)
        position = resampled_positions(self.pos_embed, self.config.grid, patches.shape[-2:])
        patches = patches.flatten(2).transpose(1, 2)  # (B, h·w, width), row-major
        return torch.cat([self.cls_token.expand(len(x), -1, -1), patches], dim=1) + position

    def class_attention(self, x: Tensor) -> Tensor:
        """Where the class token looks in every head of every block `[B, Σ heads, h, w]`, gated, block after block.

        Only the class token's row of each attention matrix is computed.

        Args:
            x: Normalised tiles `[B, C, H, W]`; sides are multiples of the patch.
        """
        tokens, rows = self.embed(x), []
        for block in self.blocks:
            assert isinstance(block, Block)
            tokens, heads = block.observe(tokens)
            rows.append(block.attn.attention(heads._replace(query=heads.query[:, :, :1]))[:, :, 0, 1:])
        grid = (x.shape[-2] // self.config.patch, x.shape[-1] // self.config.patch)
        looks: Tensor = torch.cat(rows, dim=1).unflatten(2, grid)
        return looks

    def prune(self, mask: Sequence[Tensor]) -> None:
        """Remove heads physically; afterwards the network equals the masked one and has open gates."""
        self.prune_blocks(mask)
        self.config = replace(self.config, heads=tuple(int(m.sum()) for m in mask))


@dataclass(frozen=True)
class Preset:
    """A named size: width, blocks, heads per block, head width, MLP width, width of the stem."""

    width: int
    depth: int
    heads: int
    head_width: int
    mlp_width: int
    stem_width: int


PRESETS = {
    "tiny": Preset(128, 6, 4, 32, 256, 32),
    "small": Preset(256, 8, 8, 32, 1024, 32),
    "base": Preset(768, 12, 12, 64, 3072, 64),
    "reference": Preset(1024, 12, 16, 64, 2048, 0),
}
REFERENCE_TILE, REFERENCE_PATCH = 224, 14


def preset_config(name: str, channels: int, classes: int, tile: int, patch: int) -> ViTConfig:
    """The configuration of a preset; `reference` fixes tile, patch, heads and initialisation as published."""
    p = PRESETS[name]
    heads = (p.heads,) * p.depth
    if name == "reference":
        tile, patch = REFERENCE_TILE, REFERENCE_PATCH
        return ViTConfig(channels, classes, tile, patch, p.width, heads, p.head_width, p.mlp_width, False, 1.0)
    shape = (p.width, heads, p.head_width, p.mlp_width)
    return ViTConfig(channels, classes, tile, patch, *shape, stem_width=p.stem_width)
