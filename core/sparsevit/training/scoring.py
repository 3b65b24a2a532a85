"""Tag logits of a model's map and of its transformer, and how well the latter explain the tags of held-out tiles."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from sparsevit.models.landcover import LandCoverModel, TagTransformer
from sparsevit.models.weaktr import WeakTr, WeakTrOutput
from sparsevit.training.losses import SLOPE, class_fractions, tag_loss, tag_probability
from sparsevit.training.metrics import TagScores, tag_scores
from sparsevit.training.tiles import TaggedTiles


@torch.inference_mode()
def map_tag_logits(
    model: LandCoverModel, tiles: TaggedTiles, fabric: Fabric, batch: int = 64, slope: float = SLOPE
) -> Tensor:
    """Tag logits `[N, K]` that the class fractions of the predicted map imply.

    Args:
        model: The model.
        tiles: Tiles, and the share from which a class counts as present.
        fabric: Device and precision.
        batch: Tiles per forward pass.
        slope: See `losses.tag_probability`.
    """
    model.eval()
    logits = []
    for positions in torch.arange(len(tiles)).split(batch):
        raw = tiles.store.batch(positions).to(fabric.device)
        with fabric.autocast():
            fractions = class_fractions(model(raw), torch.isfinite(raw).any(1).float())
        logits.append(tag_probability(fractions, tiles.presence_threshold, slope).cpu())
    return torch.cat(logits)


@torch.inference_mode()
def vit_tag_logits(
    model: LandCoverModel, tiles: TaggedTiles, fabric: Fabric, vit: TagTransformer | None = None, batch: int = 64
) -> tuple[Tensor, float]:
    """Tag logits `[N, K]` of the transformer, and their loss against the tags.

    They are the mean of those of the class tokens and those of the patches, by class fractions where those are trained.

    Args:
        model: A classifier; it normalises the tiles.
        tiles: Tiles with tags.
        fabric: Device and precision.
        vit: The transformer to ask; that of the model if left out.
        batch: Tiles per forward pass.
    """
    vit = vit or model.vit
    assert vit is not None
    was_training = vit.training
    vit.eval()
    logits = []
    for positions in torch.arange(len(tiles)).split(batch):
        raw = tiles.store.batch(positions).to(fabric.device)
        with fabric.autocast():
            output = vit(model.normalise(raw))
        joint = output.tags.float()
        if isinstance(output, WeakTrOutput) and is_faithful(model):
            joint = (joint + output.coarse_tags.float()) / 2
        elif output.token_logits is not None:
            valid = F.adaptive_avg_pool2d(torch.isfinite(raw).any(1).float(), output.token_logits.shape[2:])
            fractions = class_fractions(F.log_softmax(output.token_logits.float(), 1), valid)
            joint = (joint + tag_probability(fractions, tiles.presence_threshold)) / 2
        logits.append(joint.cpu())
    vit.train(was_training)
    joined = torch.cat(logits)
    return joined, float(tag_loss(joined, tiles.tags))


def vit_scores(
    model: LandCoverModel, validation: TaggedTiles, fabric: Fabric, vit: TagTransformer | None = None
) -> TagScores:
    """Scores of the tags of held-out tiles; the arguments are those of `vit_tag_logits`."""
    logits, loss = vit_tag_logits(model, validation, fabric, vit)
    return tag_scores(logits, validation.tags, loss)


def is_faithful(model: LandCoverModel) -> bool:
    """Whether the transformer is WeakTr as published, which does not train class fractions."""
    return isinstance(model.vit, WeakTr) and model.vit.config.mode == "faithful"
