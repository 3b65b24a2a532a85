"""A pretrained encoder: the same tokens as timm's own, fitted to other patches, grids and bands; refusals name keys."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from small_models import CUTTING, SCHEME, TRAINING, Diary, write_place
from torch import Tensor

from sparsevit.errors import InputError
from sparsevit.jobs import get_job
from sparsevit.models import torchvision_compat  # noqa: F401 (before timm)
from sparsevit.models.model_file import load_model
from sparsevit.models.pretrained import PretrainedSettings, read_pretrained, start_from, unseen_bands
from sparsevit.models.vit import SparseViT
from sparsevit.models.weaktr import WeakTr, weaktr_config

from timm.layers.patch_embed import resample_patch_embed  # isort: skip
from timm.models.vision_transformer import VisionTransformer  # isort: skip

RGB = ["B04", "B03", "B02"]
SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2}


def published(channels: int = 3, **changes: Any) -> VisionTransformer:
    """A plain ViT of timm with random weights, biases included."""
    torch.manual_seed(0)
    network = VisionTransformer(in_chans=channels, num_classes=5, **(SHAPE | changes)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network


def written(path: Path, tensors: dict[str, Tensor]) -> PretrainedSettings:
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    return PretrainedSettings(encoder_weights=path)


def read(settings: PretrainedSettings) -> Any:
    encoder = read_pretrained(settings)
    assert encoder is not None
    return encoder


def test_same_tokens_as_timm(tmp_path: Path) -> None:
    network = published()
    encoder = read(written(tmp_path / "vit.safetensors", network.state_dict()))
    ours = SparseViT(encoder.config(3, 4, 32, 8)).eval()
    start_from(ours, encoder, RGB)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network.forward_features(x)
        tokens, _ = ours.tokens(x)
        torch.testing.assert_close(ours.head[0](tokens), expected, atol=1e-4, rtol=1e-4)


def test_bands_are_matched_by_name(tmp_path: Path) -> None:
    network = published()
    encoder = read(written(tmp_path / "vit.safetensors", network.state_dict()))
    ours = SparseViT(encoder.config(4, 4, 32, 8)).eval()
    fresh = ours.patch_embed.weight.detach().clone()
    start_from(ours, encoder, ["B02", "B08", "B03", "B04"])
    kernel = network.patch_embed.proj.weight
    torch.testing.assert_close(ours.patch_embed.weight[:, [3, 2, 0]], kernel)
    torch.testing.assert_close(ours.patch_embed.weight[:, 1], fresh[:, 1])
    assert unseen_bands(encoder, ["B02", "B08"]) == ["B08"]


def test_larger_patches_give_the_same_tokens(tmp_path: Path) -> None:
    """Every patch enlarged by itself gives the token that it gave before (Beyer et al. 2023, eq. 4)."""
    network = published()
    encoder = read(written(tmp_path / "vit.safetensors", network.state_dict()))
    ours = SparseViT(encoder.config(3, 4, 64, 16)).eval()
    start_from(ours, encoder, RGB)
    patches = torch.randn(5, 3, 8, 8)
    enlarged = F.interpolate(patches, size=(16, 16), mode="bicubic", antialias=True)
    with torch.no_grad():
        torch.testing.assert_close(ours.patch_embed(enlarged), network.patch_embed.proj(patches), atol=1e-3, rtol=1e-3)


def test_class_tokens_of_weaktr_start_alike(tmp_path: Path) -> None:
    network = published()
    encoder = read(written(tmp_path / "vit.safetensors", network.state_dict()))
    ours = WeakTr(weaktr_config(encoder.config(3, 4, 64, 8)))
    start_from(ours, encoder, RGB)
    torch.testing.assert_close(ours.class_tokens[0], network.cls_token[0].expand(4, -1))
    torch.testing.assert_close(ours.pos_embed[0, :4], network.pos_embed[0, :1].expand(4, -1))
    assert ours.pos_embed.shape == (1, 4 + 64, 128)
    torch.testing.assert_close(ours.blocks[1].attn.qkv.bias, network.blocks[1].attn.qkv.bias)


def test_weaktr_takes_an_encoder_without_biases_of_queries_keys_and_values(tmp_path: Path) -> None:
    network = published(qkv_bias=False)
    encoder = read(written(tmp_path / "vit.safetensors", network.state_dict()))
    ours = WeakTr(weaktr_config(encoder.config(3, 4, 64, 8)))
    start_from(ours, encoder, RGB)
    torch.testing.assert_close(ours.blocks[1].attn.qkv.weight, network.blocks[1].attn.qkv.weight)
    assert not ours.blocks[1].attn.qkv.bias.any()


@pytest.mark.parametrize(
    ("container", "prefix"),
    [(None, ""), ("state_dict", "module.base_encoder."), ("teacher", "module.backbone."), ("model", "")],
)
def test_checkpoints_of_self_supervised_methods(tmp_path: Path, container: str | None, prefix: str) -> None:
    network = published(13)
    weights: dict[str, Any] = {prefix + key: value for key, value in network.state_dict().items()}
    weights |= {f"{prefix}mask_token": torch.zeros(1), f"{prefix}decoder_embed.weight": torch.zeros(1)}
    if prefix == "module.base_encoder.":
        weights |= {"module.momentum_encoder." + key: value + 1 for key, value in network.state_dict().items()}
    path = tmp_path / "checkpoint.pth"
    torch.save({container: weights, "epoch": 99} if container else weights, path)
    encoder = read(PretrainedSettings(encoder_weights=path))
    assert encoder.bands[8] == "B8A" and encoder.depth == 2
    torch.testing.assert_close(encoder.weights["cls_token"], network.cls_token)


def test_a_vit_small_of_all_sentinel_2_bands_sees_ten_of_them_in_small_patches(tmp_path: Path) -> None:
    """The shape of the encoders of SSL4EO-S12 (ViT-S/16, 13 bands, 224 pixels) on tiles of 64 pixels, patches of 4."""
    network = published(13, img_size=224, patch_size=16, embed_dim=384, depth=12, num_heads=6)
    path = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": {"module.base_encoder." + k: v for k, v in network.state_dict().items()}}, path)
    encoder = read(PretrainedSettings(encoder_weights=path))
    names = ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"]
    ours = SparseViT(encoder.config(10, 8, 64, 4)).eval()
    start_from(ours, encoder, names)
    assert unseen_bands(encoder, names) == [] and ours.heads == [6] * 12
    resampled = resample_patch_embed(network.patch_embed.proj.weight.detach(), [4, 4])
    kept = [encoder.bands.index(name) for name in names]
    torch.testing.assert_close(ours.patch_embed.weight, resampled[:, kept], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.blocks[11].attn.qkv.weight, network.blocks[11].attn.qkv.weight)
    with torch.no_grad():
        tokens, _ = ours.tokens(torch.randn(1, 10, 64, 64))
    assert tokens.shape == (1, 1 + 16 * 16, 384) and tokens.isfinite().all()


def test_missing_and_strange_keys_are_listed(tmp_path: Path) -> None:
    weights = dict(published().state_dict())
    del weights["blocks.1.mlp.fc2.bias"]
    weights["blocks.0.ls1.gamma"] = torch.ones(128)
    with pytest.raises(InputError, match=r"lacks blocks\.1\.mlp\.fc2\.bias and also has blocks\.0\.ls1\.gamma"):
        read_pretrained(written(tmp_path / "vit.safetensors", weights))


def test_blocks_of_another_shape_are_listed(tmp_path: Path) -> None:
    weights = dict(published().state_dict())
    weights["blocks.1.mlp.fc1.bias"] = torch.zeros(7)
    with pytest.raises(InputError, match=r"of width 128 with heads of 64: blocks\.1\.mlp\.fc1\.bias have other shapes"):
        read_pretrained(written(tmp_path / "vit.safetensors", weights))
    narrow = published(embed_dim=96, num_heads=3).state_dict()  # heads of 32, not of 64
    with pytest.raises(InputError, match=r"of width 96 .*: blocks\.0\.attn\.proj\.weight, .* have other shapes"):
        read_pretrained(written(tmp_path / "narrow.safetensors", narrow))
    weights = dict(published().state_dict())
    del weights["blocks.1.attn.qkv.bias"]
    with pytest.raises(InputError, match=r"lacks blocks\.1\.attn\.qkv\.bias"):
        read_pretrained(written(tmp_path / "some.safetensors", weights))


def test_other_networks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no key ends with 'patch_embed\.proj\.weight' among conv1\.weight"):
        read_pretrained(written(tmp_path / "resnet.safetensors", {"conv1.weight": torch.zeros(1)}))


def test_position_grid_must_be_square(tmp_path: Path) -> None:
    weights = dict(published().state_dict()) | {"pos_embed": torch.zeros(1, 16, 128)}
    with pytest.raises(InputError, match="'pos_embed' has 16 places"):
        read_pretrained(written(tmp_path / "vit.safetensors", weights))


def test_unknown_bands_must_be_named(tmp_path: Path) -> None:
    path = tmp_path / "vit.safetensors"
    written(path, published(4).state_dict())
    with pytest.raises(InputError, match="4 input bands, 0 names are known") as caught:
        read_pretrained(PretrainedSettings(encoder_weights=path))
    assert caught.value.parameter == "encoder_bands"
    assert read(PretrainedSettings(encoder_weights=path, encoder_bands=[*RGB, "B08"])).bands[3] == "B08"


def test_no_band_in_common(tmp_path: Path) -> None:
    encoder = read(written(tmp_path / "vit.safetensors", published().state_dict()))
    with pytest.raises(InputError, match="knows none of the bands VV, VH; it has B04, B03, B02"):
        unseen_bands(encoder, ["VV", "VH"])


def test_a_whole_checkpoint_with_its_settings_is_read(tmp_path: Path) -> None:
    network = published()
    inner = {f"module.backbone.{key}": value for key, value in network.state_dict().items()}
    settings = argparse.Namespace(lr=1e-3, arch="vit_small", data=argparse.Namespace(bands=13))
    torch.save({"teacher": inner, "epoch": 99, "args": settings}, tmp_path / "full.pth")
    encoder = read(PretrainedSettings(encoder_weights=tmp_path / "full.pth"))
    assert torch.equal(encoder.weights["pos_embed"], network.pos_embed)


class Code:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_file_that_could_run_code_is_refused(tmp_path: Path) -> None:
    path, made = tmp_path / "full.pth", tmp_path / "made"
    torch.save({"state_dict": published().state_dict(), "args": argparse.Namespace(lr=Code(made))}, path)
    with pytest.raises(InputError, match="cannot be read as weights alone"):
        read_pretrained(PretrainedSettings(encoder_weights=path))
    assert not made.exists()


@pytest.mark.parametrize("name", ["vit.safetensors", "vit.pth"])
def test_damaged_and_missing_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(InputError, match="does not exist"):
        read_pretrained(PretrainedSettings(encoder_weights=path))
    path.write_bytes(b"\x80\x02 not weights")
    with pytest.raises(InputError, match="cannot be read as weights alone"):
        read_pretrained(PretrainedSettings(encoder_weights=path))


@pytest.mark.parametrize("network", ["gated", "weaktr"])
def test_a_classifier_starts_from_the_encoder(tmp_path: Path, network: str) -> None:
    """Trained without any steps to speak of, the classifier still holds the encoder's weights."""
    scene, classes = write_place(tmp_path)
    encoder = published(embed_dim=64, num_heads=1)
    settings = written(tmp_path / "vit.safetensors", encoder.state_dict())
    tiles, output, diary = tmp_path / "tiles.gpkg", tmp_path / "classifier.safetensors", Diary()
    get_job("tiles").execute({"scene": [str(scene)], "output": str(tiles), **CUTTING}, diary)
    tags = {"tiles": str(tiles), "scheme": str(SCHEME), "source": "raster", "raster": str(classes)}
    get_job("tag").execute(tags, diary)
    options = TRAINING | {"heads_kept": 1.0, "epochs": 1, "learning_rate": 1e-9, "network": network}
    files = {"tiles": str(tiles), "output": str(output), "encoder_weights": str(settings.encoder_weights)}
    get_job("train").execute(files | options, diary)
    model, card = load_model(output)
    assert model.vit is not None
    for k in range(2):
        torch.testing.assert_close(model.vit.blocks[k].mlp.fc1.weight, encoder.blocks[k].mlp.fc1.weight)
    kernel = resample_patch_embed(encoder.patch_embed.proj.weight.detach(), [4, 4])
    torch.testing.assert_close(model.vit.patch_embed.weight[:, 0], kernel[:, 0], atol=1e-5, rtol=1e-5)
    assert card.settings["encoder"] == "vit.safetensors"
    assert "vit.safetensors has never seen B08: they start from random weights." in diary.lines
