"""The segmentation network of the refinement: an smp U-Net with a skip at full resolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from sparsevit.errors import InputError
from sparsevit.models import torchvision_compat  # noqa: F401 (before smp)

import segmentation_models_pytorch as smp  # isort: skip

DECODER_WIDTHS = (128, 64, 48, 32)
STEM_WIDTH = 32


class RefinementUNet(nn.Module):
    """A U-Net of segmentation_models_pytorch whose last layer also sees the bands at full resolution.

    Most encoders start with a stride of 2, so that a plain U-Net cannot place an edge between two pixels; at 10 m
    a pixel matters.

    Args:
        encoder: Encoder name of segmentation_models_pytorch.
        channels: Input bands.
        classes: Land-cover classes.

    Raises:
        InputError: The library does not know the encoder.
    """

    def __init__(self, encoder: str, channels: int, classes: int) -> None:
        super().__init__()
        depth = len(DECODER_WIDTHS)
        try:
            self.unet = smp.Unet(
                encoder, depth, None, decoder_channels=DECODER_WIDTHS, in_channels=channels, classes=STEM_WIDTH
            )
        except (KeyError, ValueError, RuntimeError) as err:
            raise InputError(
                f"The encoder '{encoder}' cannot be used ({err}).",
                "encoder",
                "Try resnet18, resnet34 or efficientnet-b0.",
            ) from err
        self.multiple = 2**depth
        self.stem = nn.Sequential(
            nn.Conv2d(channels, STEM_WIDTH, 3, padding=1, padding_mode="replicate"),
            nn.BatchNorm2d(STEM_WIDTH),
            nn.ReLU(),
        )
        self.classifier = nn.Conv2d(2 * STEM_WIDTH, classes, 1)
        # A fifth less time on CPUs, and what CUDA wants; Apple's backend had faults with this layout.
        if not torch.backends.mps.is_available():
            convert_conv2d_weight_memory_format(self, torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits `[B, K, H, W]` of normalised tiles `[B, C, H, W]` of any size."""
        height, width = x.shape[-2:]
        # The deepest features need more than one pixel, or batch statistics of a single tile do not exist.
        right, below = (max(-n % self.multiple, 2 * self.multiple - n) for n in (width, height))
        pad = (0, right, 0, below)
        features = self.unet(F.pad(x, pad, mode="replicate") if any(pad) else x)[..., :height, :width]
        logits: Tensor = self.classifier(torch.cat([features, self.stem(x)], dim=1))
        return logits
