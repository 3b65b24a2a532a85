"""The product's model: up to four networks that look at the same bands, and the product of what they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit.models.segmenter import Segmenter
from sparsevit.models.spectral import SpectralNetwork
from sparsevit.models.unet import RefinementUNet
from sparsevit.models.vit import SparseViT, ViTConfig, ViTOutput
from sparsevit.models.weaktr import WeakTr, WeakTrConfig, WeakTrOutput

TagTransformer = SparseViT | WeakTr
"""The transformers that learn tags: the gated one, and the one with class tokens."""
CLIP_SIGMA = 6.0
"""Normalised values beyond this many standard deviations (glint, hot roofs) are clipped."""


@dataclass(frozen=True)
class Architecture:
    """Which networks a model has, and how much each counts.

    Attributes:
        channels: Input bands.
        classes: Land-cover classes.
        tile: Side of the tiles it was trained on (pixels).
        vit: Configuration of the transformer, gated or with class tokens; none without one.
        spectral_width: Hidden width of the spectral network; 0 without one.
        encoder: Encoder of the refinement U-Net; empty without one.
        weights: Exponent of each network (`vit`, `spectral`, `unet`, `segmenter`) in the product; they sum to 1.
        segmenter: Configuration of the refinement Segmenter's encoder; none without one.
    """

    channels: int
    classes: int
    tile: int
    vit: ViTConfig | WeakTrConfig | None = None
    spectral_width: int = 0
    encoder: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)
    segmenter: ViTConfig | None = None


class LandCoverModel(nn.Module):
    """Normalises bands and joins the evidence of its networks.

    The joint probability is the weighted geometric mean of the networks' probabilities: context (the transformer:
    which classes, roughly where) and spectra (the per-pixel network: exact edges) err differently.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = self.architecture = architecture
        self.register_buffer("mean", torch.zeros(a.channels))
        self.register_buffer("std", torch.ones(a.channels))
        self.vit = transformer(a.vit) if a.vit else None
        self.spectral = SpectralNetwork(a.channels, a.classes, a.spectral_width) if a.spectral_width else None
        self.unet = RefinementUNet(a.encoder, a.channels, a.classes) if a.encoder else None
        self.segmenter = Segmenter(a.segmenter) if a.segmenter else None

    def normalise(self, x: Tensor) -> Tensor:
        """Standardise raw tiles `[B, C, H, W]` by the data set's statistics; NaN becomes the mean (0)."""
        z = (x - self.mean[:, None, None]) / self.std[:, None, None]
        return torch.nan_to_num(z.clamp(-CLIP_SIGMA, CLIP_SIGMA), nan=0.0)

    def forward(self, x: Tensor, weights: Mapping[str, float] | None = None) -> Tensor:
        """Joint class log-probabilities of raw tiles.

        Args:
            x: Tiles `[B, C, H, W]` in the units of the files, NaN for nodata.
            weights: Exponents to use instead of the model's own; networks with weight 0 are not run.

        Returns:
            Log-probabilities `[B, K, H, W]`.
        """
        z = self.normalise(x)
        weights = self.architecture.weights if weights is None else weights
        parts = {"vit": self._vit_logits, "spectral": self.spectral, "unet": self.unet, "segmenter": self.segmenter}
        total: Tensor | None = None
        for name, weight in weights.items():
            network = parts[name]
            if weight > 0 and network is not None:
                term = weight * F.log_softmax(network(z).float(), dim=1)
                total = term if total is None else total + term
        assert total is not None, "a model needs at least one network with a weight"
        return F.log_softmax(total, dim=1)

    def _vit_logits(self, z: Tensor) -> Tensor:
        assert self.vit is not None
        return vit_pixel_logits(self.vit(z), z.shape[-2:])


def transformer(config: ViTConfig | WeakTrConfig) -> TagTransformer:
    """The untrained transformer of a configuration."""
    return WeakTr(config) if isinstance(config, WeakTrConfig) else SparseViT(config)


def vit_pixel_logits(output: ViTOutput | WeakTrOutput, size: tuple[int, ...] | torch.Size) -> Tensor:
    """The transformer's class logits at pixels `[B, K, H, W]`, bilinear between patch centres.

    A transformer without token maps only knows which classes occur: its tags count as a prior everywhere.
    """
    if output.token_logits is None:
        prior = F.logsigmoid(output.tags)[..., None, None]
        return prior.expand(-1, -1, *size)
    return F.interpolate(output.token_logits.float(), size=tuple(size), mode="bilinear", align_corners=False)
