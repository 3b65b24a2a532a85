"""From a classifier to pseudomasks: evidence of each tile, and labels of blended rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from rasterio.windows import Window
from torch import Tensor

from sparsevit.errors import InputError
from sparsevit.geodata.tile_masks import UNLABELLED
from sparsevit.models.hardware import HardwareSettings, autocast, resolve_device
from sparsevit.models.landcover import LandCoverModel, vit_pixel_logits
from sparsevit.models.vit import SparseViT
from sparsevit.models.weaktr import MAP_METHODS, WeakTr
from sparsevit.settings import STRICT
from sparsevit.weak.attention import head_maps, open_heads
from sparsevit.weak.class_maps import ONE_VIEW, PUBLISHED_VIEWS, class_maps, map_evidence, normalise_maps, presence
from sparsevit.weak.clusters import binarise, cluster_heads, fill_nearest, paint
from sparsevit.weak.naming import name_by_assignment, name_by_rank

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
TileEvidence = Callable[[Tensor, list[Window]], Tensor]
TagArray = npt.NDArray[np.int8]
Known = Callable[[Window], TagArray]
"""What the tags know of a window of the scene `[K]`: 1 present, 0 absent, -1 unknown."""

LEAST_EVIDENCE = 0.01
"""Evidence of a class where its map shows nothing: spectra may still speak for it."""


@dataclass(frozen=True, config=STRICT)
class PseudomaskSettings:
    """How evidence becomes a pseudomask."""

    method: Literal["evidence", "clusters", "class_tokens", "fine_cam"] = Field(
        default="evidence",
        description="evidence: class maps of the transformer joined with the spectral network; "
        "clusters: attention of the surviving heads, clustered and named (the published recipe); "
        "class_tokens: where the class tokens of WeakTr look, joined with the spectral network; "
        "fine_cam: the same, spread along the affinity of patches.",
    )
    naming: Literal["assignment", "rank"] = Field(
        default="assignment",
        description="How clusters get their class. assignment: optimal, by the evidence; rank: the published rule.",
    )
    spectral_weight: float = Field(
        default=0.5, ge=0, le=1, description="Weight of the spectral network against the transformer (0–1)."
    )
    views: Literal["one", "published"] = Field(
        default="one",
        description="class_tokens, fine_cam: how often a tile is looked at. one: once; published: also at 1.2 times "
        "its size, and each with its mirror image, averaged; four times as slow.",
    )
    ignore_margin: float = Field(
        default=0.4,
        ge=0,
        lt=1,
        description="Pixels whose best two classes are closer than this in probability are left unlabelled.",
    )
    reclassify: bool = Field(
        default=False, description="clusters: classify each painted region again with the rest masked out."
    )
    pseudomask_overlap: float = Field(
        default=0.5, ge=0, le=0.75, description="Overlap of neighbouring tiles (share of a tile)."
    )
    pseudomask_batch: int = Field(default=32, ge=1, description="Tiles per forward pass.")


def evidence_weights(model: LandCoverModel, settings: PseudomaskSettings) -> dict[str, float]:
    """Exponents of transformer and spectral network in the joint evidence."""
    if model.vit is None:
        return {"spectral": 1.0}
    return {"vit": 1 - settings.spectral_weight, "spectral": settings.spectral_weight}


def tile_evidence(
    model: LandCoverModel, settings: PseudomaskSettings, hardware: HardwareSettings, known: Known
) -> TileEvidence:
    """The evidence of tiles: raw tiles `[B, C, side, side]` to `[B, K, side, side]`, which sums to 1 over classes.

    With `method="clusters"` the evidence of a tile is its painted mask, one-hot, so that overlapping tiles vote.

    Raises:
        InputError: The model has no transformer of the kind that the method needs.
    """
    device = resolve_device(hardware)
    model = model.to(device).eval()
    weights = evidence_weights(model, settings)

    def joint(tiles: Tensor, _: list[Window]) -> Tensor:
        with torch.inference_mode(), autocast(hardware, device):
            log_probabilities: Tensor = model(tiles.to(device), weights)
            return log_probabilities.exp()

    def painted(tiles: Tensor, windows: list[Window]) -> Tensor:
        with torch.inference_mode(), autocast(hardware, device):
            z = model.normalise(tiles.to(device))
            masks = paint_tiles(model, z, settings, [known(w) for w in windows])
        labelled = torch.from_numpy(masks >= 0)
        one_hot = torch.nn.functional.one_hot(torch.from_numpy(masks).clamp_min(0), model.architecture.classes)
        return (one_hot * labelled[..., None]).permute(0, 3, 1, 2).float()

    def mapped(tiles: Tensor, windows: list[Window]) -> Tensor:
        with torch.inference_mode(), autocast(hardware, device):
            tags = torch.from_numpy(np.stack([known(w) for w in windows])).to(device)
            evidence = class_token_evidence(model, tiles.to(device), settings, tags)
        return evidence

    check_method(settings.method, isinstance(model.vit, WeakTr))
    if settings.method == "evidence":
        return joint
    return painted if settings.method == "clusters" else mapped


def check_method(method: str, class_tokens: bool) -> None:
    """Refuse a source of maps that the transformer does not have.

    Args:
        method: As in `PseudomaskSettings`.
        class_tokens: Whether the transformer is WeakTr.

    Raises:
        InputError: It has no clusters, or no class tokens.
    """
    if method == "clusters" and class_tokens:
        raise InputError("Clusters need a gated transformer.", "method", "Train with the network 'gated'.")
    if method in MAP_METHODS and not class_tokens:
        raise InputError(f"{method} needs class tokens.", "method", "Train with the network 'weaktr'.")


def class_token_evidence(model: LandCoverModel, tiles: Tensor, settings: PseudomaskSettings, tags: Tensor) -> Tensor:
    """Evidence `[B, K, side, side]` from the maps of class tokens, joined with the spectra.

    A map counts by what is usual where its class occurs (`WeakTr.peaks`), the same in every tile of a scene.

    Args:
        model: A classifier with class tokens.
        tiles: Raw tiles `[B, C, side, side]`.
        settings: Which maps of how many views, and the weight of the spectral network.
        tags: 1 present, 0 absent, -1 unknown `[B, K]`; what is unknown is left to the prediction.
    """
    network, method = model.vit, settings.method
    assert isinstance(network, WeakTr) and (method == "class_tokens" or method == "fine_cam")
    z = model.normalise(tiles)
    maps, logits = class_maps(network, z, method, PUBLISHED_VIEWS if settings.views == "published" else ONE_VIEW)
    peaks = network.peaks[MAP_METHODS.index(method)].float()
    evidence = map_evidence(normalise_maps(maps, peaks), presence(logits, tags))
    if settings.spectral_weight == 0 or model.spectral is None:
        return evidence
    log_spectra = F.log_softmax(model.spectral(z).float(), dim=1)
    log_maps = evidence.clamp_min(LEAST_EVIDENCE).log()
    return F.softmax((1 - settings.spectral_weight) * log_maps + settings.spectral_weight * log_spectra, dim=1)


def paint_tiles(model: LandCoverModel, z: Tensor, settings: PseudomaskSettings, tags: list[TagArray]) -> IntArray:
    """Masks `[B, side, side]` of normalised tiles by clustering heads; -1 where a tile shows no class at all.

    Args:
        model: A classifier with a transformer.
        z: Normalised tiles `[B, C, side, side]`.
        settings: Naming and re-classification.
        tags: For each tile 1 present, 0 absent, -1 unknown `[K]`.
    """
    vit = model.vit
    assert isinstance(vit, SparseViT)
    side = z.shape[-1]
    output = vit(z, need_attention=True)
    assert output.attention is not None
    maps = head_maps(output.attention, vit.config.grid, side).cpu()
    probability = output.tags.float().sigmoid().cpu().numpy()
    evidence = vit_pixel_logits(output, z.shape[-2:]).softmax(1).float().cpu().numpy()
    masks = np.full((len(z), side, side), UNLABELLED, np.int64)
    for i in range(len(z)):
        classes = np.flatnonzero(_painted_classes(probability[i], tags[i]))
        masks[i] = _paint_tile(maps[i][open_heads(maps[i])].numpy(), classes, probability[i], evidence[i], settings)
        if settings.reclassify and len(classes) > 1:
            masks[i] = _reclassify(vit, z[i], masks[i], classes)
    return masks


def _painted_classes(probability: FloatArray, tags: TagArray) -> BoolArray:
    """The known tags of a tile; where a tag is unknown, what is predicted (p ≥ 0.5)."""
    painted: BoolArray = np.where(tags < 0, probability >= 0.5, tags == 1)
    return painted


def _paint_tile(
    maps: FloatArray, classes: IntArray, probability: FloatArray, evidence: FloatArray, settings: PseudomaskSettings
) -> IntArray:
    if len(classes) == 0:
        return np.full(evidence.shape[1:], UNLABELLED, np.int64)
    if len(classes) == 1 or len(maps) == 0:  # no heads left in the last block: only the most probable class is known
        return np.full(evidence.shape[1:], classes[probability[classes].argmax()], np.int64)
    foreground, strength = binarise(cluster_heads(maps, len(classes)))
    if settings.naming == "rank":
        named = name_by_rank(strength, probability, classes)
    else:
        named = name_by_assignment(foreground, evidence, classes)
    return fill_nearest(paint(foreground, strength, named))


def _reclassify(vit: SparseViT, z: Tensor, mask: IntArray, classes: IntArray) -> IntArray:
    """Step 8 of the published recipe, restricted to the classes of the tile: each region, all else set to the mean."""
    regions = np.unique(mask[mask >= 0])
    if len(regions) == 0:
        return mask
    inputs = torch.stack([z * torch.from_numpy(mask == r).to(z) for r in regions])
    best = vit(inputs).tags[:, torch.from_numpy(classes).to(z.device)].argmax(dim=1).cpu().numpy()
    out = mask.copy()
    for region, choice in zip(regions, best, strict=True):
        out[mask == region] = classes[choice]
    return out


def label(evidence: FloatArray, allowed: BoolArray, ignore_margin: float) -> tuple[IntArray, FloatArray]:
    """Class and confidence of each pixel.

    Where tags are known only their classes are painted. The confidence is the margin between the best two allowed
    classes in the evidence over *all* classes: where the evidence speaks for a class that the tags exclude, the
    margin is small and the pixel falls into the ignore band instead of getting the second-best class.

    Args:
        evidence: Probabilities `[K, H, W]`.
        allowed: `[K, H, W]`; a pixel without any allowed class is not restricted.
        ignore_margin: Pixels with a smaller margin are ignored, as are those without evidence for any allowed class.

    Returns:
        Class index `[H, W]`, -1 for the ignore band; margin `[H, W]`, 0–1.
    """
    restricted = np.where(allowed | ~allowed.any(axis=0), evidence, 0)
    best = restricted.argmax(axis=0)
    ordered = np.sort(restricted, axis=0)
    margin = ordered[-1] - (ordered[-2] if len(ordered) > 1 else 0)
    labels = np.where((margin >= ignore_margin) & (ordered[-1] > 0), best, UNLABELLED)
    return labels, np.clip(margin, 0, 1).astype(np.float32)
