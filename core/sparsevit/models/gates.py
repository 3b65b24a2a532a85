"""Hard Concrete gates on attention heads (Louizos, Welling & Kingma 2018; per head after Voita et al. 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class HardConcrete:
    """Constants of the distribution: temperature, stretch limits, and the distance of noise from 0 and 1.

    Source: the-story-of-heads (Voita et al. 2019), inherited by the sparse multimodal ViT (Hanna et al. 2023).
    """

    beta: float = 0.33
    gamma: float = -0.1
    zeta: float = 1.1
    eps: float = 1e-6

    def stretch(self, s: Tensor) -> Tensor:
        """Stretch (0, 1) to (gamma, zeta) and clip to [0, 1]."""
        return (s * (self.zeta - self.gamma) + self.gamma).clamp(0, 1)

    def sample(self, log_alpha: Tensor, noise: Tensor) -> Tensor:
        """Soft gate z for uniform noise in (0, 1); Louizos et al. 2018, eq. 10–11."""
        u = noise.clamp(self.eps, 1 - self.eps)
        return self.stretch(torch.sigmoid((u.logit() + log_alpha) / self.beta))

    def mean_gate(self, log_alpha: Tensor) -> Tensor:
        """Soft gate of evaluation without noise: 0 iff log_alpha ≤ -2.398, 1 iff log_alpha ≥ 2.398."""
        return self.stretch(torch.sigmoid(log_alpha))

    def p_nonzero(self, log_alpha: Tensor) -> Tensor:
        """P(z > 0); Louizos et al. 2018, eq. 12. Overstates the hard gate's P(open)."""
        return torch.sigmoid(log_alpha - self.beta * math.log(-self.gamma / self.zeta))

    def p_one(self, log_alpha: Tensor) -> Tensor:
        """P(z = 1)."""
        return torch.sigmoid(log_alpha - self.beta * math.log((1 - self.gamma) / (self.zeta - 1)))

    def p_open(self, log_alpha: Tensor) -> Tensor:
        """P(z > 0.5) = σ(log_alpha): the probability that agrees with the inference rule, used in the penalty."""
        return torch.sigmoid(log_alpha)


class GateMode(Enum):
    """How a gate layer behaves."""

    OPEN = "open"
    """Every head is on; the gates are as if they were not there."""
    SAMPLE = "sample"
    """Training: one hard draw per head and step with a straight-through gradient."""
    THRESHOLD = "threshold"
    """Inference: a head is on iff its log_alpha > 0."""


class HeadGates(nn.Module):
    """One gate per attention head of a layer.

    Args:
        heads: Number of heads.
        init: Initial log_alpha. The default starts every gate open, with P(open) = 0.92.
    """

    def __init__(self, heads: int, init: float = 2.5) -> None:
        super().__init__()
        self.distribution = HardConcrete()
        self.log_alpha = nn.Parameter(torch.full((heads,), init))
        self.mode = GateMode.OPEN

    def forward(self) -> Tensor | None:
        """Gate of each head `[heads]`, 0 or 1; None when the gates are open."""
        if self.mode is GateMode.OPEN:
            return None
        if self.mode is GateMode.THRESHOLD or not self.training:
            return (self.log_alpha > 0).to(self.log_alpha.dtype)
        soft = self.distribution.sample(self.log_alpha, torch.rand_like(self.log_alpha))
        hard = (soft > 0.5).to(soft.dtype)
        return hard + soft - soft.detach()  # straight-through: forward hard, backward soft

    @torch.no_grad()
    def set_mask(self, keep: Tensor) -> None:
        """Fix which heads are on `[heads]`; used once the budget is met."""
        self.log_alpha.copy_(torch.where(keep, 10.0, -10.0))
