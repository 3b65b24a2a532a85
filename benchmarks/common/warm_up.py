"""A warm-up of the transformer on the whole scene, without tags: masked image modelling.

Method: Xie et al. 2022 (SimMIM, arXiv 2111.09886): hidden patches of windows are told from the others by one linear
layer. Patches are hidden by the mean of their bands, before the stem that sees their neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from rasterio.windows import Window
from torch import Tensor, nn

from sparsevit.geodata.scene import open_scene
from sparsevit.models.landcover import LandCoverModel
from sparsevit.models.vit import SparseViT
from sparsevit.reporting import Reporter
from sparsevit.training.augment import random_dihedral
from sparsevit.training.classifier import untrained
from sparsevit.training.loop import Phase, TrainingSettings, fit

HIDDEN = 0.6
"""Share of the patches that are hidden."""
WINDOWS, EPOCHS = 1600, 10
"""Windows of an epoch, and epochs: 1000 steps of 16, about 18 minutes on one slow CPU thread."""


@contextmanager
def warmed_up(scene: list[Path]) -> Iterator[None]:
    """Let transformers that are trained inside start from weights that have told hidden patches of a scene."""

    def warm(architecture: Any, statistics: Any, seed: int, fabric: Fabric, start: Any = None) -> LandCoverModel:
        model = untrained(architecture, statistics, seed, fabric, start)
        with open_scene(scene) as opened:
            values, _ = opened.read(Window(0, 0, opened.grid.width, opened.grid.height))
        tell_hidden_patches(model, torch.from_numpy(values), TrainingSettings(seed=seed), fabric)
        return model

    with mock.patch("sparsevit.training.classifier.untrained", warm):
        yield


def tell_hidden_patches(model: LandCoverModel, scene: Tensor, training: TrainingSettings, fabric: Fabric) -> None:
    """Train the transformer of a model in place, but for its heads, on windows of a scene `[C, H, W]`."""
    vit = model.vit
    assert isinstance(vit, SparseViT)
    config = vit.config
    decoder = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, config.channels * config.patch**2))

    def loss(positions: Tensor) -> Tensor:
        corners = [torch.randint(size - config.tile + 1, (len(positions),)).tolist() for size in scene.shape[1:]]
        windows = [scene[:, y : y + config.tile, x : x + config.tile] for y, x in zip(*corners, strict=True)]
        (raw,) = random_dihedral([torch.stack(windows)])
        z = model.normalise(raw.to(fabric.device))
        hidden = torch.rand(len(z), 1, config.grid, config.grid, device=z.device) < HIDDEN
        pixels = hidden.repeat_interleave(config.patch, 2).repeat_interleave(config.patch, 3)
        tokens, _ = vit.tokens(z * ~pixels)
        patches = decoder(tokens[:, 1:]).transpose(1, 2).unflatten(2, (config.grid, config.grid))
        error = F.smooth_l1_loss(F.pixel_shuffle(patches.float(), config.patch), z, reduction="none")
        return (error * pixels).sum() / (pixels.sum() * config.channels)

    network = nn.ModuleList([vit, decoder.to(fabric.device)])
    fit(Phase("warm_up", network, loss, WINDOWS, EPOCHS), training, fabric, Reporter())
