"""The per-pixel network: what spectra alone say about the classes, with exact edges."""

from __future__ import annotations

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
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, padding_mode="replicate"),
            nn.GELU(),
            nn.Conv2d(width, width, 1),
            nn.GELU(),
            nn.Conv2d(width, classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Class logits `[B, K, H, W]` of normalised tiles `[B, C, H, W]`."""
        logits: Tensor = self.layers(x)
        return logits
