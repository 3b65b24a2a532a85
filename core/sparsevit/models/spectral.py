"""The per-pixel network: what spectra alone say about the classes, with exact edges."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SpectralNetwork(nn.Module):
    """A 3×3 convolution and two 1×1 layers: class logits of each pixel from its own neighbourhood.

    Args:
        channels: Input bands.
        classes: Land-cover classes.
        width: Hidden width.
    """

    def __init__(self, channels: int, classes: int, width: int = 64) -> None:
        super().__init__()
        self.neighbourhood = nn.Conv2d(channels, width, 3)
        self.layers = nn.Sequential(
            nn.GELU(),
            nn.Conv2d(width, width, 1),
            nn.GELU(),
            nn.Conv2d(width, classes, 1),
        )

    def forward(self, x: Tensor, stride: int = 1) -> Tensor:
        """Class logits of normalised tiles `[B, C, H, W]`.

        Args:
            x: Normalised tiles.
            stride: Only every n-th pixel of every n-th row, from the first one on.

        Returns:
            Logits `[B, K, ⌈H / stride⌉, ⌈W / stride⌉]`.
        """
        n = self.neighbourhood
        hidden = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), n.weight, n.bias, stride=stride)
        logits: Tensor = self.layers(hidden)
        return logits
