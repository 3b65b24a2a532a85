"""Which tile to tag next: the one whose tags the classifier knows least, and about which its heads disagree."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor

from sparsevit.models.landcover import LandCoverModel
from sparsevit.reporting import Reporter
from sparsevit.training.scoring import vit_tag_logits
from sparsevit.training.tiles import TaggedTiles, TileStore


@dataclass(frozen=True)
class Information:
    """What the tags of each tile would tell, in bits.

    Attributes:
        entropy: Entropy of the predicted tags `[N]`, summed over classes.
        disagreement: The part of it that the committee's members disagree about `[N]`: the mutual information of
            tags and members (Houlsby et al. 2011, "BALD").
    """

    entropy: Tensor
    disagreement: Tensor

    @property
    def total(self) -> Tensor:
        """What tiles are ranked by `[N]`: what is unknown, and once more what the model could know but does not."""
        return self.entropy + self.disagreement


def binary_entropy(p: Tensor) -> Tensor:
    """Entropy of tags of probability p (bits), elementwise."""
    nats: Tensor = torch.special.entr(p) + torch.special.entr(1 - p)
    return nats / math.log(2)


def information(probabilities: Tensor) -> Information:
    """Entropy and disagreement of tag probabilities `[members, N, K]`."""
    entropy = binary_entropy(probabilities.mean(dim=0)).sum(dim=1)
    expected = binary_entropy(probabilities).mean(dim=0).sum(dim=1)
    return Information(entropy, (entropy - expected).clamp_min(0))


def committee(
    model: LandCoverModel, store: TileStore, presence_threshold: float, fabric: Fabric, reporter: Reporter
) -> Tensor:
    """Tag probabilities `[members, N, K]` of the classifier, and of it without each of its heads in turn.

    Args:
        model: A classifier with a transformer.
        store: Raw tiles.
        presence_threshold: Share of a tile from which a class counts as present.
        fabric: Device and precision.
        reporter: Progress; asked before each member whether to stop.
    """
    view = fabric.to_device(copy.deepcopy(model))
    assert isinstance(view, LandCoverModel) and view.vit is not None
    tiles = TaggedTiles(store, torch.full((len(store), model.architecture.classes), -1), presence_threshold)
    whole = [torch.ones(heads, dtype=torch.bool) for heads in view.vit.heads]
    members = [whole]
    for block, heads in enumerate(view.vit.heads):
        for head in range(heads):
            without = [mask.clone() for mask in whole]
            without[block][head] = False
            members.append(without)
    probabilities = []
    for k, mask in enumerate(members):
        reporter.check()
        view.vit.set_head_mask(mask)
        probabilities.append(vit_tag_logits(view, tiles, fabric)[0].sigmoid())
        reporter.progress((k + 1) / len(members), "asking the heads")
    return torch.stack(probabilities)
