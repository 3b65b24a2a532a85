"""Weights of a pretrained vision transformer from a local file, for the transformers of this engine.

The file holds a plain ViT by the names of timm, alone or inside the checkpoint of a self-supervised method: MoCo v3,
DINO or MAE, as the Sentinel-2 encoders of SSL4EO-S12 are published (Wang et al. 2022, arXiv 2211.07044). Patch size,
position grid and input bands are fitted to the scene; what does not fit otherwise is an error that lists the keys.
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from pickle import UnpicklingError  # nosec B403: only the error; torch reads tensors and plain values alone
from typing import Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sparsevit.errors import InputError
from sparsevit.models import torchvision_compat  # noqa: F401 (before timm)
from sparsevit.models.vit import SparseViT, ViTConfig
from sparsevit.models.weaktr import WeakTr
from sparsevit.settings import STRICT

from timm.layers.patch_embed import resample_patch_embed  # isort: skip
from timm.layers.pos_embed import resample_abs_pos_embed  # isort: skip

KNOWN_BANDS = {
    2: ["VV", "VH"],
    3: ["B04", "B03", "B02"],
    12: ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"],
    13: ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"],
}
"""Band order that a number of input channels stands for: Sentinel-1, RGB, Sentinel-2 L2A and L1C."""
CONTAINERS = ("teacher", "state_dict", "model")
"""Where checkpoints keep the weights: DINO, MoCo v3 and MAE."""
HEAD_WIDTHS = {1280: 80}
"""Width of a head by width of the tokens, 64 for all others (Dosovitskiy et al. 2021): no file says it."""
LEFT_OUT = ("head.", "fc.", "decoder_", "mask_token")
"""Beginnings of keys that are not of the encoder: classifiers, and the decoder of a masked autoencoder."""
PATCH_KERNEL = "patch_embed.proj.weight"
SHOWN_KEYS = 8


@dataclass(frozen=True, config=STRICT)
class PretrainedSettings:
    """Where the transformer starts from."""

    encoder_weights: Path | None = Field(
        default=None,
        description="Weights of a pretrained vision transformer by timm's names (.safetensors, .pth, .pt, .bin), such "
        "as those of SSL4EO-S12; it replaces the shape of the preset. Random weights if left out.",
    )
    encoder_bands: list[str] = Field(
        default=[],
        description="Names of the bands of `encoder_weights` in order; if empty, 2, 3, 12 or 13 bands are taken for "
        "VV VH, red green blue, Sentinel-2 L2A or L1C.",
    )


@plain_dataclass(frozen=True)
class PretrainedEncoder:
    """A pretrained encoder.

    Attributes:
        name: Name of its file.
        bands: Names of its input bands, in order.
        weights: Its tensors, by timm's names.
    """

    name: str
    bands: list[str]
    weights: Mapping[str, Tensor]

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len({key.split(".")[1] for key in self.weights if key.startswith("blocks.")})

    def config(self, channels: int, classes: int, tile: int, patch: int) -> ViTConfig:
        """The shape of the transformer that these weights fit.

        Args:
            channels: Input bands.
            classes: Land-cover classes.
            tile: Side of a tile (pixels).
            patch: Side of a token's patch (pixels); the kernel of the file is resampled to it.
        """
        width = self.weights["cls_token"].shape[-1]
        head_width = HEAD_WIDTHS.get(width, 64)
        heads = (width // head_width,) * self.depth
        mlp = len(self.weights["blocks.0.mlp.fc1.bias"])
        bias = "blocks.0.attn.qkv.bias" in self.weights
        return ViTConfig(channels, classes, tile, patch, width, heads, head_width, mlp, qkv_bias=bias)


def read_pretrained(settings: PretrainedSettings) -> PretrainedEncoder | None:
    """Read a pretrained encoder; none if none is asked for.

    Raises:
        InputError: The file is missing, damaged, holds no vision transformer or one of another kind, or its bands are
            unknown.
    """
    path = settings.encoder_weights
    if path is None:
        return None
    found = _encoder(_read(path), path)
    _check_keys(found, path)
    channels = found[PATCH_KERNEL].shape[1]
    bands = list(settings.encoder_bands) or KNOWN_BANDS.get(channels, [])
    if len(bands) != channels:
        raise InputError(
            f"{path} has {channels} input bands, {len(bands)} names are known.",
            "encoder_bands",
            "Name its bands in order, for example B04, B03, B02.",
        )
    encoder = PretrainedEncoder(path.name, bands, found)
    _check_shapes(encoder, path)
    return encoder


def unseen_bands(encoder: PretrainedEncoder, bands: list[str]) -> list[str]:
    """Those of the bands that an encoder has never seen.

    Raises:
        InputError: It has seen none of them.
    """
    unseen = [band for band in bands if band not in encoder.bands]
    if len(unseen) == len(bands):
        raise InputError(
            f"{encoder.name} knows none of the bands {', '.join(bands)}; it has {', '.join(encoder.bands)}.",
            "encoder_bands",
            "Name the bands of the file as those of the scene are named.",
        )
    return unseen


def start_from(network: SparseViT | WeakTr, encoder: PretrainedEncoder, bands: list[str]) -> None:
    """Copy a pretrained encoder into a fresh transformer of its shape, in place.

    The kernel of the patch embedding is resampled so that patches of another size give the same tokens as far as
    possible (Beyer et al. 2023), the position grid bicubically. Bands are matched by name; the weights of those that
    the encoder has never seen stay random.

    Args:
        network: A transformer of `encoder.config`, or WeakTr on it, whose class tokens all start as that of the file.
        encoder: The encoder.
        bands: Names of the network's input bands.
    """
    vit = network.config.vit if isinstance(network, WeakTr) else network.config
    tokens = vit.classes if isinstance(network, WeakTr) else 1
    weights = encoder.weights
    kernel = resample_patch_embed(weights[PATCH_KERNEL].float(), [vit.patch, vit.patch])
    assert isinstance(network.patch_embed, nn.Conv2d)
    embedded = network.patch_embed.weight.detach().clone()
    for k, band in enumerate(bands):
        if band in encoder.bands:
            embedded[:, k] = kernel[:, encoder.bands.index(band)]
    position = resample_abs_pos_embed(weights["pos_embed"].float(), [vit.grid, vit.grid], num_prefix_tokens=1)
    state = {key: value for key, value in weights.items() if key.startswith("blocks.")}
    state |= {
        "patch_embed.weight": embedded,
        "patch_embed.bias": weights["patch_embed.proj.bias"],
        "pos_embed": torch.cat([position[:, :1].expand(-1, tokens, -1), position[:, 1:]], dim=1),
        "class_tokens" if isinstance(network, WeakTr) else "cls_token": weights["cls_token"].expand(-1, tokens, -1),
    }
    if isinstance(network, SparseViT):
        heads = ("head.0", "token_head.0") if network.token_head is not None else ("head.0",)
        state |= {f"{head}.{part}": weights[f"norm.{part}"] for head in heads for part in ("weight", "bias")}
    for key, bias in network.state_dict().items():
        if key.endswith("attn.qkv.bias") and key not in state:  # WeakTr has one, the file's transformer none
            state[key] = torch.zeros_like(bias)
    left = network.load_state_dict(state, strict=False)
    own = ("head.", "token_head.", "gates.", "cam_head.", "fusion.", "fine_head.", "peaks")
    lacking = [key for key in left.missing_keys if not any(part in key for part in own)]
    assert not lacking and not left.unexpected_keys, (lacking, left.unexpected_keys)


def _read(path: Path) -> dict[str, Any]:
    """All that a file holds; from a pickled one only tensors and plain values, nothing that could run."""
    if not path.is_file():
        raise InputError(f"The file {path} does not exist.", "encoder_weights", "Check the path.")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with torch.serialization.safe_globals([Namespace]):  # the settings in checkpoints of DINO and MAE
            data = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError, RuntimeError, UnpicklingError) as err:
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise InputError(
            f"{path} cannot be read as weights alone ({reason}).",
            "encoder_weights",
            "It may be truncated, or hold more than weights: save its state dict as .safetensors.",
        ) from err
    return data if isinstance(data, dict) else {}


def _encoder(data: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """The encoder's tensors by timm's names, taken out of the checkpoint that holds them."""
    inner = next((data[name] for name in CONTAINERS if isinstance(data.get(name), dict)), data)
    prefix = next((key.removesuffix(PATCH_KERNEL) for key in inner if key.endswith(PATCH_KERNEL)), None)
    if prefix is None:
        raise InputError(
            f"{path} holds no vision transformer: no key ends with '{PATCH_KERNEL}' among {_some(list(inner))}.",
            "encoder_weights",
            "Choose the weights of a ViT by timm's names.",
        )
    own = {key.removeprefix(prefix): value for key, value in inner.items() if key.startswith(prefix)}
    return {key: value for key, value in own.items() if not key.startswith(LEFT_OUT)}


def _check_keys(weights: dict[str, Tensor], path: Path) -> None:
    """Refuse an encoder with other layers than a plain ViT, or without some of them."""
    depth = 1 + max((int(key.split(".")[1]) for key in weights if key.startswith("blocks.")), default=0)
    layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    names = ["patch_embed.proj", "norm", *(f"blocks.{k}.{layer}" for k in range(depth) for layer in layers)]
    wanted = {f"{name}.{part}" for name in names for part in ("weight", "bias")} | {"cls_token", "pos_embed"}
    if not any(key.endswith("qkv.bias") for key in weights):  # some published transformers have none
        wanted = {key for key in wanted if not key.endswith("qkv.bias")}
    missing = sorted(wanted - set(weights))
    beyond = sorted(set(weights) - wanted)
    if missing or beyond:
        what = [f"lacks {_some(missing)}"] if missing else []
        what += [f"also has {_some(beyond)}"] if beyond else []
        raise InputError(
            f"{path} is not a plain vision transformer: it {' and '.join(what)}.",
            "encoder_weights",
            "Choose a ViT with a class token, by timm's names.",
        )
    side = math.isqrt(weights["pos_embed"].shape[1] - 1)
    if side * side + 1 != weights["pos_embed"].shape[1]:
        raise InputError(
            f"{path}: 'pos_embed' has {weights['pos_embed'].shape[1]} places, not a square and one class token.",
            "encoder_weights",
            "Choose a ViT of square images.",
        )


def _check_shapes(encoder: PretrainedEncoder, path: Path) -> None:
    """Refuse an encoder whose blocks are not those of a plain ViT of its width."""
    config = encoder.config(channels=1, classes=2, tile=8, patch=8)
    with torch.device("meta"):
        plain = SparseViT(config).state_dict()
    blocks = [key for key in encoder.weights if key.startswith("blocks.")]
    other = [key for key in blocks if encoder.weights[key].shape != plain[key].shape]
    if other:
        raise InputError(
            f"{path} is not a plain vision transformer of width {config.width} with heads of {config.head_width}: "
            f"{_some(other)} have other shapes than its.",
            "encoder_weights",
            "Choose a ViT with a class token, by timm's names.",
        )


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(keys[:SHOWN_KEYS]) + more
