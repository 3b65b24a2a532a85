"""Adaptive attention fusion: how much the attention of each head counts in one image, and the maps that follow.

Method: WeakTr (Zhu et al. 2023, arXiv 2304.01184), written from its equations. Two deviations, in both modes: a head's
feature is its own output before the projection (the authors slice the projected, already mixed output), and every head
may carry a gate.

Gates and fusion weights are the same thing at two grains: a gate says whether a head exists at all, a fusion weight how
much it counts in this image. A closed gate makes its score 0 before heads compare notes, its weight 0 after, its
attention 0, and the divisor counts open heads only. So a closed head changes nothing, and cutting it out of the network
changes nothing either.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit.models.vit import HeadStates, linear

TINY = 1e-6
"""Smallest divisor of a normalisation."""


class AttentionFusion(nn.Module):
    """The weight of each head, from what the head itself put out.

    Args:
        heads: Heads of all blocks together.
        head_width: Width of a head.
        hidden: Width of the bottleneck in which heads see each other.
        feature_hidden: Width of the bottleneck of a head's feature.
    """

    def __init__(self, heads: int, head_width: int, hidden: int, feature_hidden: int) -> None:
        super().__init__()
        # Two linear layers without an activation between them, as published.
        self.feature = nn.Sequential(nn.Linear(head_width, feature_hidden), nn.Linear(feature_hidden, 1))
        self.squeeze = linear(heads, hidden, bias=False)
        self.excite = linear(hidden, heads, bias=False)

    def forward(self, features: Tensor, is_open: Tensor) -> Tensor:
        """Weights of heads `[B, heads]` in [0, 1]: w' = σ(W2 ReLU(W1 w0)), 0 for closed heads.

        Args:
            features: Largest output of each head over all tokens `[B, heads, head_width]`; a mean of attention maps
                would be 1/N for every head and image, because softmax rows sum to 1.
            is_open: 1 for open heads, 0 for closed ones `[heads]`.
        """
        score = self.feature(features)[..., 0] * is_open  # w0
        return torch.sigmoid(self.excite(F.relu(self.squeeze(score)))) * is_open

    @torch.no_grad()
    def prune(self, keep: Tensor) -> None:
        """Slice the heads that are not kept out of the bottleneck; `keep` is a mask `[heads]`."""
        kept, hidden = int(keep.sum()), self.squeeze.out_features
        squeeze, excite = linear(kept, hidden, bias=False), linear(hidden, kept, bias=False)
        squeeze.weight.copy_(self.squeeze.weight[:, keep])
        excite.weight.copy_(self.excite.weight[keep])
        self.squeeze, self.excite = squeeze, excite


def fuse_attention(attention: Iterable[Tensor], weights: Tensor, is_open: Tensor) -> Tensor:
    """Weighted mean over all open heads `[B, N, N]`: Â = Σ w'_i A_i / (number of open heads).

    Blocks are added one by one, so that without gradients only one block's attention is in memory at a time.

    Args:
        attention: Gated attention of each block `[B, heads, N, N]`, in order.
        weights: Weights of the heads of all blocks, in the same order `[B, Σ heads]`.
        is_open: 1 for open heads, 0 for closed ones `[Σ heads]`.
    """
    first, total = 0, None
    for block in attention:
        part = torch.einsum("bh,bhij->bij", weights[:, first : first + block.shape[1]].to(block.dtype), block).float()
        first, total = first + block.shape[1], part if total is None else total + part
    assert total is not None, "a network needs at least one block"
    return total / is_open.sum().clamp_min(1)


def split_attention(fused: Tensor, classes: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where class tokens look `[B, K, h, w]`, and which patches look at which `[B, h·w, h·w]`.

    Args:
        fused: Attention `[B, K+h·w, K+h·w]`, class tokens first, patches row-major; the rows of the patches may be
            left out, and are then missing from the second result.
        classes: K.
        grid: h, w.
    """
    cross = fused[:, :classes, classes:].reshape(len(fused), classes, *grid)
    return cross, fused[:, classes:, classes:]


def patch_similarity(heads: HeadStates, classes: int) -> Tensor:
    """How much patches resemble each other in what a block asks and offers, gated `[B, heads, h·w, h·w]`.

    The mean of softmax(q qᵀ/√d) and softmax(k kᵀ/√d), rows summing to the gate; after SCLIP (Wang et al. 2024,
    arXiv 2312.01597). A transformer that learns tags from scratch tends to let a patch look at what it is *not*: what
    it is, it knows. On synthetic mosaics evidence that spread along that attention crossed the edges between classes;
    along this similarity it rarely did.

    Args:
        heads: What the heads of a block did.
        classes: Number of class tokens, which come first and are left out.
    """
    total = heads.query.new_zeros(())
    for vectors in (heads.query[:, :, classes:], heads.key[:, :, classes:]):
        total = total + torch.softmax(vectors @ vectors.transpose(-2, -1) * vectors.shape[-1] ** -0.5, dim=-1) / 2
    return total if heads.gate is None else total * heads.gate[:, None, None]


def normalise_attention(cross: Tensor, affinity: Tensor) -> tuple[Tensor, Tensor]:
    """Attention that neither scales nor shifts a map: each class token looks at 1 on average, each row sums to 1.

    Args:
        cross: Class tokens to patches `[B, K, h, w]`.
        affinity: Patches to patches `[B, h·w, h·w]`.
    """
    mean = cross.mean((2, 3), keepdim=True)
    return cross / mean.clamp_min(TINY), affinity / affinity.sum(2, keepdim=True).clamp_min(TINY)


def fine_cam(coarse: Tensor, cross: Tensor, affinity: Tensor) -> Tensor:
    """The fine class activation map `[B, K, h, w]`: affinity · vec(ReLU(coarse) ⊙ cross), per class.

    Args:
        coarse: Class logits of patches `[B, K, h, w]`.
        cross: Where class tokens look `[B, K, h, w]`.
        affinity: Which patches look at which `[B, h·w, h·w]`.
    """
    seen = (F.relu(coarse) * cross).flatten(2)  # (B, K, h·w)
    return (affinity @ seen.transpose(1, 2)).transpose(1, 2).reshape(coarse.shape)
