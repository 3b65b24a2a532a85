"""Pseudomasks: what a tile's tags allow, what is left unlabelled, and the recipe on whole tiles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window
from small_models import SIDE, tiny_model

from sparsevit.geodata.tile_masks import UNLABELLED
from sparsevit.models.hardware import HardwareSettings
from sparsevit.models.landcover import LandCoverModel
from sparsevit.weak.pseudomask import (
    PseudomaskSettings,
    evidence_weights,
    label,
    paint_tiles,
    tile_evidence,
)

CPU = HardwareSettings(device="cpu", precision="32-true")
NOTHING = np.full(3, -1, np.int8)
"""Tags of a tile of which nothing is known."""
CLUSTERS = PseudomaskSettings(method="clusters")


def dirichlet(classes: int, seed: int, side: int = 5) -> np.ndarray:
    p = np.random.default_rng(seed).dirichlet(np.ones(classes), (side, side))
    return p.transpose(2, 0, 1).astype(np.float32)


def sharp_model(seed: int = 0) -> LandCoverModel:
    """Untrained, with large weights, so that its heads and classes differ."""
    torch.manual_seed(seed)
    model = tiny_model()
    assert model.vit is not None
    for block in model.vit.blocks:
        torch.nn.init.normal_(block.attn.qkv.weight, std=1.0)
    torch.nn.init.normal_(model.vit.head[1].weight, std=1.0)
    return model.requires_grad_(False)


def tiles(count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


# --- labels -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(0, 200), st.floats(0, 0.9), st.data())
def test_labels_are_allowed_classes_or_ignored(classes: int, seed: int, margin: float, data: st.DataObject) -> None:
    allowed = np.random.default_rng(seed + 1).random((classes, 5, 5)) < 0.5
    labels, confidence = label(dirichlet(classes, seed), allowed, margin)
    restricted = allowed.any(axis=0)
    for y, x in np.argwhere((labels != UNLABELLED) & restricted):
        assert allowed[labels[y, x], y, x]
    assert ((confidence >= 0) & (confidence <= 1)).all()


@given(st.integers(2, 6), st.integers(0, 200), st.floats(0, 0.9))
def test_pixels_between_two_classes_are_ignored(classes: int, seed: int, margin: float) -> None:
    evidence = dirichlet(classes, seed)
    labels, confidence = label(evidence, np.ones((classes, 5, 5), bool), margin)
    ordered = np.sort(evidence, axis=0)
    np.testing.assert_allclose(confidence, ordered[-1] - ordered[-2], atol=1e-6)
    np.testing.assert_array_equal(labels == UNLABELLED, confidence < margin)
    painted = labels != UNLABELLED
    np.testing.assert_array_equal(labels[painted], evidence.argmax(axis=0)[painted])


@given(st.integers(2, 6), st.integers(0, 200), st.floats(0, 0.9), st.floats(0, 0.9))
def test_a_larger_margin_ignores_more(classes: int, seed: int, one: float, other: float) -> None:
    evidence, allowed = dirichlet(classes, seed), np.ones((classes, 5, 5), bool)
    low, high = (label(evidence, allowed, m)[0] for m in sorted((one, other)))
    assert ((high == UNLABELLED) | (high == low)).all()


def test_evidence_for_a_class_that_the_tags_exclude_becomes_ignored_rather_than_second_best() -> None:
    evidence = np.array([0.9, 0.06, 0.04], np.float32)[:, None, None]
    allowed = np.array([False, True, True])[:, None, None]
    labels, confidence = label(evidence, allowed, 0.1)
    assert labels[0, 0] == UNLABELLED and confidence[0, 0] < 0.1


def test_a_pixel_where_nothing_is_allowed_is_not_restricted() -> None:
    labels, _ = label(np.array([0.1, 0.9], np.float32)[:, None, None], np.zeros((2, 1, 1), bool), 0.1)
    assert labels[0, 0] == 1


def test_a_single_class_is_certain() -> None:
    labels, confidence = label(np.ones((1, 2, 2), np.float32), np.ones((1, 2, 2), bool), 0.5)
    assert (labels == 0).all() and (confidence == 1).all()


def test_a_pixel_without_evidence_is_ignored() -> None:
    labels, confidence = label(np.zeros((3, 2, 2), np.float32), np.ones((3, 2, 2), bool), 0)
    assert (labels == UNLABELLED).all() and (confidence == 0).all()


def test_where_all_evidence_is_for_excluded_classes_nothing_is_painted() -> None:
    evidence = np.array([1, 0, 0], np.float32)[:, None, None]
    labels, _ = label(evidence, np.array([False, True, True])[:, None, None], 0)
    assert labels[0, 0] == UNLABELLED


# --- evidence ---------------------------------------------------------------------------------------------------------


def untagged(_: Window) -> np.ndarray:
    return NOTHING


@pytest.mark.parametrize("method", ["evidence", "clusters"])
def test_evidence_of_a_tile_sums_to_one(method: str) -> None:
    evaluate = tile_evidence(sharp_model(), PseudomaskSettings(method=method), CPU, untagged)  # type: ignore[arg-type]
    out = evaluate(tiles(), [Window(0, 0, SIDE, SIDE)] * 3)
    assert out.shape == (3, 3, SIDE, SIDE)
    sums = out.sum(1)
    assert (((sums - 1).abs() < 1e-5) | (sums == 0)).all()


def test_evidence_does_not_depend_on_the_batch() -> None:
    for method in ("evidence", "clusters"):
        settings = PseudomaskSettings(method=method)  # type: ignore[arg-type]
        evaluate = tile_evidence(sharp_model(), settings, CPU, untagged)
        windows = [Window(0, 0, SIDE, SIDE)] * 4
        together = evaluate(tiles(4), windows)
        alone = torch.cat([evaluate(t[None], windows[:1]) for t in tiles(4)])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@settings(max_examples=20)
@given(st.floats(0, 1))
def test_weights_of_the_evidence_sum_to_one(share: float) -> None:
    weights = evidence_weights(tiny_model(), PseudomaskSettings(spectral_weight=share))
    assert sum(weights.values()) == pytest.approx(1)
    assert evidence_weights(LandCoverModel(replace(tiny_model().architecture, vit=None)), CLUSTERS) == {"spectral": 1.0}


def test_joint_evidence_is_the_weighted_geometric_mean() -> None:
    model, x = sharp_model(), tiles(2)
    one, two = (model(x, {name: 1.0}) for name in ("vit", "spectral"))
    joint = model(x, {"vit": 0.7, "spectral": 0.3})
    torch.testing.assert_close(joint, (0.7 * one + 0.3 * two).log_softmax(1))


def test_nodata_in_a_tile_gives_finite_evidence() -> None:
    x = tiles()
    x[:, :, :4] = torch.nan
    assert tile_evidence(sharp_model(), PseudomaskSettings(), CPU, untagged)(x, []).isfinite().all()


def test_a_tile_in_which_no_class_is_predicted_stays_unlabelled_without_a_margin() -> None:
    model = sharp_model()
    assert model.vit is not None
    model.vit.head[1].bias.data.fill_(-50)
    evidence = tile_evidence(model, CLUSTERS, CPU, untagged)(tiles(1), [Window(0, 0, SIDE, SIDE)])
    labels, _ = label(evidence[0].numpy(), np.ones((3, SIDE, SIDE), bool), 0)
    assert (labels == UNLABELLED).all()


# --- clusters on whole tiles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("naming", ["rank", "assignment"])
@pytest.mark.parametrize("reclassify", [False, True])
@pytest.mark.parametrize("tags", [[1, 1, 0], [0, 1, 1], [0, 0, 1]])
def test_every_painted_pixel_is_of_a_tagged_class(naming: str, reclassify: bool, tags: list[int]) -> None:
    settings = replace(CLUSTERS, naming=naming, reclassify=reclassify)  # type: ignore[arg-type]
    masks = paint_tiles(sharp_model(), tiles(), settings, [np.array(tags)] * 3)
    assert set(np.unique(masks)) <= set(np.flatnonzero(tags))


def test_an_unknown_tag_among_known_ones_is_left_to_the_prediction() -> None:
    model, tags = sharp_model(), [np.array([1, -1, 0])]
    assert model.vit is not None
    painted = []
    for bias in (-50.0, 50.0):
        model.vit.head[1].bias.data[1] = bias
        painted.append(set(np.unique(paint_tiles(model, tiles(1), CLUSTERS, tags))))
    assert painted == [{0}, {0, 1}]


def test_one_tagged_class_fills_its_tile() -> None:
    masks = paint_tiles(sharp_model(), tiles(1), CLUSTERS, [np.array([0, 1, 0])])
    assert (masks == 1).all()


def test_a_tile_in_which_no_class_is_predicted_is_ignored() -> None:
    model = sharp_model()
    assert model.vit is not None
    model.vit.head[1].bias.data.fill_(-50)
    assert (paint_tiles(model, tiles(1), CLUSTERS, [NOTHING]) == UNLABELLED).all()


@pytest.mark.parametrize("kept", [0, 1])
def test_fewer_heads_than_classes_never_raise(kept: int) -> None:
    model = sharp_model()
    assert model.vit is not None
    model.vit.prune([torch.tensor([True, True]), torch.tensor([kept == 1, False])])
    model.vit.head[1].bias.data.fill_(50)  # all three classes are predicted
    model.requires_grad_(False)
    masks = paint_tiles(model, tiles(), CLUSTERS, [NOTHING] * 3)
    assert set(np.unique(masks)) <= {0, 1, 2}


def test_the_same_tile_is_painted_the_same_every_time() -> None:
    model = sharp_model()
    first, second = (paint_tiles(model, tiles(), CLUSTERS, [NOTHING] * 3) for _ in range(2))
    np.testing.assert_array_equal(first, second)


# --- re-classification ------------------------------------------------------------------------------------------------


def discerning_model() -> LandCoverModel:
    """Band k shows class k; head k looks where class k is, and tells the class token what it saw.

    Class 1 counts as a little more probable than it looks.
    """
    model = tiny_model(channels=3)
    assert model.vit is not None and model.vit.token_head is not None
    vit, patch = model.vit, SIDE // 4
    for parameter in vit.parameters():
        parameter.data.zero_()
    for norm in vit.modules():
        if isinstance(norm, torch.nn.LayerNorm):
            norm.weight.data.fill_(1)
    read, marked, width = torch.eye(3, 16), 3, 8
    vit.patch_embed.weight.data[:3] = (torch.eye(3) / patch**2)[:, :, None, None]
    vit.cls_token.data[..., marked] = 1
    attention = vit.blocks[-1].attn
    query, key, value = attention.qkv.weight.data.view(3, 2, width, 16)
    for k in range(2):
        query[k, 0, marked] = key[k, 0, k] = 1.5
        value[k, :3] = read
        attention.proj.weight.data[:3, k * width : k * width + 3] = torch.eye(3)
    for head in (vit.head, vit.token_head):
        head[1].weight.data[:] = read
    vit.head[1].bias.data[1] = 0.5
    return model.requires_grad_(False)


def two_halves() -> tuple[torch.Tensor, np.ndarray]:
    """A tile of class 0 on three quarters and class 1 on the rest; and its true mask."""
    truth = np.zeros((SIDE, SIDE), np.int64)
    truth[:, 3 * SIDE // 4 :] = 1
    return torch.from_numpy(np.eye(3, dtype=np.float32)[truth].transpose(2, 0, 1))[None], truth


def test_reclassification_corrects_the_names_that_the_rank_got_wrong() -> None:
    model, (z, truth) = discerning_model(), two_halves()
    tags = [np.array([1, 1, 0])]
    by_rank = replace(CLUSTERS, naming="rank")
    np.testing.assert_array_equal(paint_tiles(model, z, by_rank, tags)[0], 1 - truth)
    np.testing.assert_array_equal(paint_tiles(model, z, replace(by_rank, reclassify=True), tags)[0], truth)


def test_reclassification_keeps_names_that_are_right() -> None:
    model, (z, truth) = discerning_model(), two_halves()
    for reclassify in (False, True):
        settings = replace(CLUSTERS, naming="assignment", reclassify=reclassify)
        np.testing.assert_array_equal(paint_tiles(model, z, settings, [np.array([1, 1, 0])])[0], truth)


def test_reclassification_chooses_among_the_tags_alone() -> None:
    model, (z, truth) = discerning_model(), two_halves()
    settings = replace(CLUSTERS, naming="rank", reclassify=True)
    mask = paint_tiles(model, z, settings, [np.array([0, 1, 1])])[0]
    assert (mask[truth == 1] == 1).all()
    assert set(np.unique(mask)) <= {1, 2}
