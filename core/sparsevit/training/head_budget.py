"""A controller that ends with exactly the number of heads asked for."""

from __future__ import annotations

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from sparsevit.models.gates import HeadGates
from sparsevit.settings import STRICT

RANGE = 4.0
"""Scores stay within ± this value, so that a gate can still change its mind."""


@dataclass(frozen=True, config=STRICT)
class BudgetSettings:
    """How many heads survive, and what shows whether the choice was worth it."""

    heads_kept: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the attention heads that survive (0–1); 1 keeps all, 0 as few as cost no more than "
        "`heads_cost`, which short trials find.",
    )
    heads_cost: float = Field(
        default=0.005,
        ge=0,
        le=1,
        description="Macro-F1 of held-out tags (0–1) that fewer heads may cost when their number is found.",
    )
    controls: bool = Field(
        default=True, description="Also train the controls: random heads removed, and no heads removed."
    )


def heads_to_keep(share: float, total: int) -> int:
    """Number of heads for a share of them, at least one."""
    return min(max(round(share * total), 1), total)


class HeadBudget:
    """Closes gates until exactly `keep` are open.

    The budget counts heads. After every update all scores are shifted by one common value so that exactly as many of
    them are positive (open by the inference rule) as the schedule allows; the shift is the dual variable of the
    constraint "number of open heads". Heads therefore compete with each other, and the noise of the Hard Concrete
    draw keeps those near the border in play. Holding an average probability instead ends with every gate at the same
    value, hence all closed.

    Args:
        gates: The gates of all layers.
        keep: Heads that stay open.
    """

    def __init__(self, gates: list[HeadGates], keep: int) -> None:
        self.gates, self.keep = gates, keep
        self.total = sum(len(g.log_alpha) for g in gates)

    def allowed(self, done: float) -> int:
        """Open heads allowed when `done` (0–1) of the gate phase is over; all, then a cubic fall until 0.75."""
        left = max(1 - done / 0.75, 0.0) ** 3
        return max(self.keep, round(self.keep + (self.total - self.keep) * left))

    @torch.no_grad()
    def project(self, done: float) -> None:
        """Shift the scores so that exactly the allowed number is positive."""
        scores = self.scores()
        allowed = self.allowed(done)
        ranked = scores.sort(descending=True).values
        if allowed < self.total:
            shift = (ranked[allowed - 1] + ranked[allowed]) / 2
        else:
            shift = torch.clamp(ranked[-1] - 0.5, max=0.0)
        for gate in self.gates:
            gate.log_alpha.sub_(shift).clamp_(-RANGE, RANGE)

    def penalty(self) -> Tensor:
        """Mean over all gates of P(open) by the inference rule, σ(log_alpha); in [0, 1] at any size of network."""
        return torch.cat([g.distribution.p_open(g.log_alpha) for g in self.gates]).mean()

    def scores(self) -> Tensor:
        """Scores of all heads, layer by layer."""
        return torch.cat([g.log_alpha.detach() for g in self.gates])

    def open_probability(self) -> list[list[float]]:
        """P(open) of every head, layer by layer; above 0.5 for those that `mask` keeps, but for ties."""
        return [g.distribution.p_open(g.log_alpha.detach()).tolist() for g in self.gates]

    def mask(self) -> list[Tensor]:
        """The best `keep` heads as one mask per layer."""
        return best_mask([g.log_alpha.detach() for g in self.gates], self.keep)


def best_mask(scores: list[Tensor], keep: int) -> list[Tensor]:
    """The `keep` heads of the highest scores as one mask per layer; ties are broken by position.

    Args:
        scores: Scores of the heads of each layer.
        keep: Number of heads.
    """
    flat = torch.cat(scores).cpu()
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[torch.argsort(flat, descending=True, stable=True)[:keep]] = True
    return list(mask.split([len(s) for s in scores]))


def random_mask(heads: list[int], keep: int, seed: int) -> list[Tensor]:
    """The control: `keep` heads drawn at random, as one mask per layer."""
    flat = torch.zeros(sum(heads), dtype=torch.bool)
    flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))[:keep]] = True
    return list(flat.split(heads))
