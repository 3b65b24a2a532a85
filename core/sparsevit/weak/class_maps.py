"""Class maps of the transformer with class tokens: from views of a tile to evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsevit.models.weaktr import MapMethod, WeakTr, token_maps

TINY = 1e-6


class Views(NamedTuple):
    """How often a tile is looked at.

    Attributes:
        scales: Sizes, relative to its own.
        mirrored: Whether each is followed by its mirror image.
    """

    scales: Sequence[float] = (1.0,)
    mirrored: bool = False


ONE_VIEW, PUBLISHED_VIEWS = Views(), Views((1.0, 1.2), mirrored=True)


def class_maps(network: WeakTr, z: Tensor, method: MapMethod, views: Views = ONE_VIEW) -> tuple[Tensor, Tensor]:
    """Class maps at pixels `[B, K, H, W]`, ≥ 0, and tag logits `[B, K]`: the means over all views of the tiles.

    Views that are not a whole number of patches are padded below and to the right by the mean of the bands (0), so that
    maps stay in place.

    Args:
        network: The network.
        z: Normalised tiles `[B, C, H, W]` of any size.
        method: Which maps, see `token_maps`.
        views: How the tiles are looked at.
    """
    seen = []
    for scale in views.scales:
        seen.append(_at_scale(network, z, method, scale))
        if views.mirrored:
            maps, tags = _at_scale(network, z.flip(3), method, scale)
            seen.append((maps.flip(3), tags))
    maps, tags = (torch.stack(parts).mean(0) for parts in zip(*seen, strict=True))
    return maps, tags


def _at_scale(network: WeakTr, z: Tensor, method: MapMethod, scale: float) -> tuple[Tensor, Tensor]:
    patch = network.config.vit.patch
    height, width = z.shape[2:]
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    view = z if size == (height, width) else F.interpolate(z, size=size, mode="bilinear", align_corners=False)
    view = F.pad(view, (0, -size[1] % patch, 0, -size[0] % patch))
    output = network(view)
    maps = F.interpolate(
        token_maps(output, method).float(), size=tuple(view.shape[2:]), mode="bilinear", align_corners=False
    )[..., : size[0], : size[1]]
    if size != (height, width):
        maps = F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)
    return maps, output.tags.float()


def normalise_maps(maps: Tensor, peaks: Tensor) -> Tensor:
    """Maps `[B, K, H, W]` by what is usual where a class occurs, at most 1; a map without a peak is 0.

    The published range is that of each tile, in which the faintest trace of a class fills 0–1 as well as the class
    itself does, and neighbouring tiles do not fit together; by peaks that all tiles share neither happens.

    Args:
        maps: Class maps, ≥ 0.
        peaks: The usual maximum of each map `[K]`, see `WeakTr.peaks`.
    """
    return (maps / peaks[:, None, None].clamp_min(TINY)).clamp(0, 1)


def presence(logits: Tensor, tags: Tensor) -> Tensor:
    """How far a class may be painted `[B, K]`: a known tag decides, an unknown one leaves it to the prediction.

    Args:
        logits: Tag logits `[B, K]`.
        tags: 1 present, 0 absent, -1 unknown `[B, K]`.
    """
    return torch.where(tags < 0, torch.sigmoid(logits.float()), tags.float())


def map_evidence(maps: Tensor, present: Tensor) -> Tensor:
    """Evidence of each class at each pixel `[B, K, H, W]`, which sums to 1, or is 0 where no map says anything.

    Land cover has no background: every pixel belongs to the classes of its tile, so that their maps are shared out and
    `pseudomask.label` leaves unlabelled what is undecided.

    Args:
        maps: Normalised maps `[B, K, H, W]`, 0–1.
        present: How far each class may be painted `[B, K]`, see `presence`.
    """
    weighted = maps * present[:, :, None, None]
    return weighted / weighted.sum(1, keepdim=True).clamp_min(TINY)
