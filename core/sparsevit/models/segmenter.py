"""Segmenter: a plain vision transformer whose patch tokens are compared with one learned embedding per class.

Method: Strudel et al. 2021 (Segmenter, mask transformer), as retrained by WeakTr (arXiv 2304.01184). It sees no finer
than a patch: between patch centres the class logits are interpolated.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit.models.vit import Block, SparseViT, ViTConfig

DECODER_BLOCKS = 2
"""Transformer blocks of the mask transformer; Strudel et al. 2021."""
CLASS_EMBED_STD = 0.02
"""Standard deviation of the initial class embeddings; Strudel et al. 2021."""


class MaskTransformer(nn.Module):
    """Class scores of patches: cosines of patch tokens and class embeddings that have attended to each other.

    Args:
        config: Width, width of a head, width of the MLPs and number of classes; as many heads as fill the width.
        blocks: Transformer blocks.
    """

    def __init__(self, config: ViTConfig, blocks: int = DECODER_BLOCKS) -> None:
        super().__init__()
        width, classes = config.width, config.classes
        heads = max(width // config.head_width, 1)
        self.patch_in = nn.Linear(width, width)
        self.class_embed = nn.Parameter(torch.randn(1, classes, width) * CLASS_EMBED_STD)
        self.blocks = nn.ModuleList(Block(config, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.patch_out = nn.Parameter(torch.randn(width, width) * width**-0.5)
        self.class_out = nn.Parameter(torch.randn(width, width) * width**-0.5)
        self.class_norm = nn.LayerNorm(classes)

    def forward(self, patches: Tensor) -> Tensor:
        """Class scores `[B, N, K]` of encoded patches `[B, N, width]`, standardised over the classes."""
        count = patches.shape[1]
        tokens = torch.cat([self.patch_in(patches), self.class_embed.expand(len(patches), -1, -1)], dim=1)
        for block in self.blocks:
            tokens, _ = block(tokens)
        tokens = self.norm(tokens)
        places, classes = tokens[:, :count] @ self.patch_out, tokens[:, count:] @ self.class_out
        # Cosines of one patch differ little, and the norm magnifies that: bfloat16 would leave steps in the map.
        with torch.autocast(patches.device.type, enabled=False):
            cosines = F.normalize(places.float(), dim=-1) @ F.normalize(classes.float(), dim=-1).transpose(1, 2)
            scores: Tensor = self.class_norm(cosines)
        return scores


class Segmenter(nn.Module):
    """A vision transformer with a mask transformer on its patch tokens.

    Args:
        config: Shape of the encoder, and the number of classes; `tile` is where position embeddings are learned.
        blocks: Transformer blocks of the mask transformer.
    """

    def __init__(self, config: ViTConfig, blocks: int = DECODER_BLOCKS) -> None:
        super().__init__()
        self.encoder = SparseViT(replace(config, token_maps=False))
        self.encoder.head = nn.Sequential()  # tags are not asked for
        self.norm = nn.LayerNorm(config.width)
        self.decoder = MaskTransformer(config, blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits `[B, K, H, W]` of normalised tiles `[B, C, H, W]` of any size."""
        height, width = x.shape[-2:]
        patch = self.encoder.config.patch
        pad = (0, -width % patch, 0, -height % patch)
        x = F.pad(x, pad, mode="replicate") if any(pad) else x
        rows, columns = x.shape[-2] // patch, x.shape[-1] // patch
        tokens, _ = self.encoder.tokens(x)
        scores = self.decoder(self.norm(tokens[:, 1:])).transpose(1, 2).unflatten(2, (rows, columns))
        pixels = F.interpolate(scores, scale_factor=patch, mode="bilinear", align_corners=False)
        return pixels[..., :height, :width]


def segmenter_on(vit: SparseViT, blocks: int = DECODER_BLOCKS) -> Segmenter:
    """A segmenter that goes on from a trained transformer: its encoder as it is, with its heads; a fresh decoder."""
    segmenter = Segmenter(vit.config, blocks)
    encoder = {k: v for k, v in vit.state_dict().items() if not k.startswith(("head.", "token_head."))}
    segmenter.encoder.load_state_dict(encoder)
    for gate, trained in zip(segmenter.encoder.gates(), vit.gates(), strict=True):
        gate.mode = trained.mode
    return segmenter
