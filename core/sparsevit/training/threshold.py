"""How much of a tile a class has to cover before it is tagged: learned beside a network that learns the tags.

People who type tags have no threshold in mind, but the class-fraction loss needs one: where classes are tagged from 2 %
of a tile and the loss believes in 10 %, it demands more of a rare class than there is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sparsevit.training.tiles import TaggedTiles

LOWEST, HIGHEST = 0.01, 0.5
"""Bounds of the presence threshold (share of a tile)."""
LEAST_ABSENT = 0.2
"""Share of absences among the known tags from which they teach a threshold."""


class WithThreshold(nn.Module):
    """A network and the presence threshold of its tags, trained and resumed as one.

    The fractions of a class in tiles tagged with it, and in those tagged without it, leave room for few thresholds:
    a wrong one contradicts the tags of all classes at once. Where tiles hold little but a class or nothing of it, any
    threshold between explains the tags, and what is learned says little.

    Args:
        network: A network that learns tags by class fractions.
        tiles: Training tiles; they know where the threshold starts.

    Attributes:
        contrast: Whether enough is known to be absent: otherwise the lowest threshold would explain all tags.
    """

    def __init__(self, network: nn.Module, tiles: TaggedTiles) -> None:
        super().__init__()
        self.network = network
        self.contrast = bool((tiles.tags == 0).sum() >= LEAST_ABSENT * (tiles.tags >= 0).sum())
        self.log_threshold = nn.Parameter(torch.tensor(math.log(tiles.presence_threshold)))
        self.project()

    @property
    def threshold(self) -> Tensor:
        """Share of a tile from which a class counts as present, a scalar."""
        return self.log_threshold.exp()

    @torch.no_grad()
    def project(self) -> None:
        """Bring the threshold back between its bounds."""
        self.log_threshold.clamp_(math.log(LOWEST), math.log(HIGHEST))
