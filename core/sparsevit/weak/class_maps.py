"""Class maps of the transformer with class tokens: from views of a tile to evidence, or to labels with background."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsevit.models.weaktr import MapMethod, WeakTr, token_maps

BACKGROUND = -1
TINY = 1e-6


def class_maps(
    network: WeakTr, z: Tensor, method: MapMethod = "fine_cam", scales: Sequence[float] = (1.0,), flip: bool = False
) -> Tensor:
    """Class maps at pixels `[B, K, H, W]`, ≥ 0: the mean over all views of the tiles.

    The published settings are scales 1 and 1.2, each with its mirror image. Tiles that are not a whole number of
    patches are padded below and to the right by the mean of the bands (0), so that maps stay in place.

    Args:
        network: The network.
        z: Normalised tiles `[B, C, H, W]` of any size.
        method: Which maps, see `token_maps`.
        scales: Sizes at which tiles are looked at, relative to their own.
        flip: Whether to look at the mirror image of each, too.
    """
    total = z.new_zeros(())
    for scale in scales:
        total = total + _maps_at_scale(network, z, method, scale)
        if flip:
            total = total + _maps_at_scale(network, z.flip(3), method, scale).flip(3)
    return total / (len(scales) * (2 if flip else 1))


def _maps_at_scale(network: WeakTr, z: Tensor, method: MapMethod, scale: float) -> Tensor:
    patch = network.config.vit.patch
    height, width = z.shape[2:]
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    view = z if size == (height, width) else F.interpolate(z, size=size, mode="bilinear", align_corners=False)
    view = F.pad(view, (0, -size[1] % patch, 0, -size[0] % patch))
    maps = token_maps(network(view), method).float()
    maps = F.interpolate(maps, size=tuple(view.shape[2:]), mode="bilinear", align_corners=False)
    maps = maps[..., : size[0], : size[1]]
    if size == (height, width):
        return maps
    return F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)


class MapRange(NamedTuple):
    """Lowest and highest value of each class map, of each tile `[B, K]` or of a whole scene `[K]`."""

    low: Tensor
    high: Tensor


def tile_range(maps: Tensor) -> MapRange:
    """The range of each map `[B, K, H, W]`."""
    return MapRange(maps.amin((2, 3)), maps.amax((2, 3)))


def scene_range(ranges: Iterable[MapRange]) -> MapRange:
    """The range over all tiles of a scene, from those of batches of tiles."""
    lows, highs = zip(*ranges, strict=True)
    return MapRange(torch.cat(lows).amin(0), torch.cat(highs).amax(0))


def normalise_maps(maps: Tensor, span: MapRange) -> Tensor:
    """Maps `[B, K, H, W]` stretched to 0–1 by their range; a map without contrast becomes 0.

    By the range of the tile (the published way) the faintest trace of a class fills 0–1 as well as the class itself
    does, and neighbouring tiles do not fit together; by the range of the scene neither happens.
    """
    low, high = span.low[..., None, None], span.high[..., None, None]
    return ((maps - low) / (high - low).clamp_min(TINY)).clamp(0, 1)


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


def label_objects(maps: Tensor, present: Tensor, threshold: float) -> Tensor:
    """Labels `[B, H, W]` where classes are objects before a background: the published rule.

    Args:
        maps: Normalised maps `[B, K, H, W]`, 0–1.
        present: Which classes occur `[B, K]`, boolean.
        threshold: Value of the background everywhere; published: 0.43 (VOC), 0.42 (COCO).

    Returns:
        Class index, -1 for background.
    """
    masked = torch.where(present[:, :, None, None], maps, -1.0)
    best = masked.max(dim=1)
    return torch.where((best.values >= threshold) & (best.values >= 0), best.indices, BACKGROUND)
