"""One geometric transform for everything that lies on the same pixels."""

from __future__ import annotations

import torch
from torch import Tensor


def random_dihedral(tensors: list[Tensor], generator: torch.Generator | None = None) -> list[Tensor]:
    """Flip and turn each tile of a batch by the same random symmetry of the square in all tensors.

    Args:
        tensors: Tensors `[B, …, H, W]` with the same B and square H = W (bands of all sensors, masks).
        generator: Source of randomness; the default one if left out.
    """
    flags = torch.rand(3, len(tensors[0]), generator=generator) < 0.5
    out = []
    for t in tensors:
        where = flags.to(t.device).view(3, -1, *(1,) * (t.ndim - 1))
        t = torch.where(where[0], t.flip(-1), t)
        t = torch.where(where[1], t.flip(-2), t)
        out.append(torch.where(where[2], t.transpose(-1, -2), t))
    return out
