"""Where the class token looks: attention maps of the surviving heads."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def class_attention(attention: Tensor, grid: int) -> Tensor:
    """Attention of the class token to the patches, `[B, heads, h, w]`.

    Args:
        attention: Gated attention `[B, heads, 1+h·w, 1+h·w]`, class token first, patches row-major.
        grid: h = w, patches along one side.
    """
    batch, heads = attention.shape[:2]
    return attention[:, :, 0, 1:].reshape(batch, heads, grid, grid)


def head_maps(attention: Tensor, grid: int, side: int) -> Tensor:
    """Maps of the heads at pixels `[B, heads, side, side]`, each with a maximum of 1; closed heads are zero."""
    maps = class_attention(attention, grid).float()
    maps = maps / maps.amax(dim=(2, 3), keepdim=True).clamp_min(1e-12)
    if maps.shape[1] == 0:
        return maps.new_zeros(len(maps), 0, side, side)
    return F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)


def open_heads(maps: Tensor) -> Tensor:
    """Which heads of a tile are not closed `[heads]`, of maps `[heads, H, W]`."""
    return maps.flatten(1).sum(dim=1) > 0
