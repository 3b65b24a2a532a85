"""The transformer with class tokens: its size, its fusion of heads, its maps, its losses, and labels from maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsevit.geodata.tile_masks import UNLABELLED
from sparsevit.models.attention_fusion import (
    AttentionFusion,
    fine_cam,
    fuse_attention,
    normalise_attention,
    patch_similarity,
    split_attention,
)
from sparsevit.models.gates import GateMode
from sparsevit.models.model_file import parameter_count
from sparsevit.models.vit import Block, HeadStates, ViTConfig
from sparsevit.models.weaktr import FusionMode, WeakTr, WeakTrOutput, weaktr_config
from sparsevit.training.head_budget import HeadBudget
from sparsevit.training.losses import balance, fraction_loss
from sparsevit.training.weaktr import HEAD_ENTROPY, class_token_losses, faithful_loss, head_spread, repaired_loss
from sparsevit.weak.class_maps import (
    ONE_VIEW,
    PUBLISHED_VIEWS,
    MapMethod,
    Views,
    class_maps,
    map_evidence,
    normalise_maps,
    presence,
    token_maps,
)
from sparsevit.weak.pseudomask import label

HEADS, CLASSES, PATCH = (3, 2), 4, 4
DEIT_SMALL = ViTConfig(3, 20, 224, 16, 384, (6,) * 12, 64, 1536, token_maps=False)  # as published
VIT = ViTConfig(3, CLASSES, 12, PATCH, 12, HEADS, 5, 16)  # 3 · 5 ≠ 12: nothing may rely on heads · head width = width
MODES: tuple[FusionMode, ...] = ("faithful", "repaired")
MASKS = st.lists(st.booleans(), min_size=sum(HEADS), max_size=sum(HEADS))
METHODS: tuple[MapMethod, ...] = ("class_tokens", "fine_cam")
both_modes = pytest.mark.parametrize("mode", MODES)


def network(mode: FusionMode = "repaired", detached: bool | None = None, seed: int = 0) -> WeakTr:
    torch.manual_seed(seed)
    config = weaktr_config(VIT, mode)
    weaktr = WeakTr(config if detached is None else replace(config, detached=detached)).eval()
    for parameter in weaktr.parameters():  # biases away from 0, heads and classes away from each other
        torch.nn.init.normal_(parameter, std=0.5)
    return weaktr


def tiles(count: int = 2, height: int = 12, width: int = 12, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def split(keep: list[bool]) -> list[Tensor]:
    return list(torch.tensor(keep).split(list(HEADS)))


def random_attention(heads: tuple[int, ...] = HEADS, n: int = 7, batch: int = 2) -> list[Tensor]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randn(batch, h, n, n, generator=draw).softmax(-1) for h in heads]


def assert_same(actual: WeakTrOutput, expected: WeakTrOutput, but: tuple[str, ...] = ()) -> None:
    for name, value in expected._asdict().items():
        if name not in but:
            torch.testing.assert_close(getattr(actual, name), value, rtol=1e-4, atol=1e-5)


VALID = torch.ones(2, 12, 12)


def repaired(out: WeakTrOutput, tags: Tensor) -> Tensor:
    return repaired_loss(out, VALID[:1].expand(len(tags), -1, -1), tags, presence_threshold=0.1)


# --- size -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "published"), [(20, 21_751_221), (90, 22_046_971)])
def test_reference_has_the_published_number_of_parameters(classes: int, published: int) -> None:
    with torch.device("meta"):
        weaktr = WeakTr(weaktr_config(replace(DEIT_SMALL, classes=classes), "faithful"))
    unused_norm, gates = 2 * 384, 72  # the published network holds a last norm that it never applies, and has no gates
    assert parameter_count(weaktr) == published - unused_norm + gates


def test_reference_fusion_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        fusion = WeakTr(weaktr_config(DEIT_SMALL, "faithful")).fusion
    assert parameter_count(fusion.feature) == 529
    assert parameter_count(fusion) == 1_296 + 529


def test_repairs_cost_a_scale_and_a_shift_per_class() -> None:
    assert parameter_count(network("repaired")) - parameter_count(network("faithful")) == 2 * CLASSES


@both_modes
def test_outputs_have_the_documented_shapes_and_ranges(mode: FusionMode) -> None:
    out = network(mode)(tiles())
    for tags in (out.tags, out.coarse_tags, out.fine_tags):
        assert tags.shape == (2, CLASSES)
    for maps in (out.cross, out.coarse, out.fine):
        assert maps.shape == (2, CLASSES, 3, 3)
    assert out.head_weights.shape == (2, sum(HEADS))
    assert ((out.head_weights > 0) & (out.head_weights < 1)).all()
    assert (out.cross >= 0).all() and (out.fine >= 0).all() and (out.coarse < 0).any()


@both_modes
def test_tags_are_means_of_tokens_and_maps(mode: FusionMode) -> None:
    weaktr, x = network(mode), tiles()
    out = weaktr(x)
    torch.testing.assert_close(out.coarse_tags, out.coarse.mean((2, 3)))
    if mode == "faithful":
        torch.testing.assert_close(out.fine_tags, out.fine.mean((2, 3)))
    weaktr.blocks = nn.ModuleList()  # what is left: the tokens as they were made
    weaktr.fused = lambda states, grid: (out.cross, torch.eye(9), out.head_weights)  # type: ignore[method-assign]
    made = (weaktr.class_tokens + weaktr.pos_embed[:, :CLASSES]).mean(2)
    torch.testing.assert_close(weaktr(x).tags, made.expand(2, -1))


# --- tokens and positions -------------------------------------------------------------------------------------------


@both_modes
@pytest.mark.parametrize("seed", range(3))
def test_permuting_class_tokens_permutes_predictions_and_maps(mode: FusionMode, seed: int) -> None:
    order = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(seed))
    plain, permuted, x = network(mode), network(mode), tiles()
    with torch.no_grad():
        for parameter in (permuted.cam_head.weight, permuted.cam_head.bias):
            assert parameter is not None
            parameter.copy_(parameter[order])
        permuted.class_tokens.copy_(permuted.class_tokens[:, order])
        permuted.pos_embed[:, :CLASSES] = permuted.pos_embed[:, :CLASSES][:, order].clone()
        if permuted.fine_head is not None:
            permuted.fine_head.log_scale.copy_(permuted.fine_head.log_scale[order])
            permuted.fine_head.shift.copy_(permuted.fine_head.shift[order])
    a, b = plain(x), permuted(x)
    expected = WeakTrOutput(*(t[:, order] for t in a[:-1]), a.head_weights)
    assert_same(b, expected)


def test_positions_at_the_native_size_are_the_trained_ones() -> None:
    weaktr = network()
    assert torch.equal(weaktr.positions((3, 3)), weaktr.pos_embed)


def test_positions_of_class_tokens_stay_at_any_size() -> None:
    weaktr = network()
    positions = weaktr.positions((5, 2))
    assert positions.shape == (1, CLASSES + 10, VIT.width)
    assert torch.equal(positions[:, :CLASSES], weaktr.pos_embed[:, :CLASSES])


@pytest.mark.parametrize(("rows", "columns"), [(6, 3), (2, 5), (7, 4)])
def test_positions_of_another_grid_keep_rows_and_columns_apart(rows: int, columns: int) -> None:
    weaktr = network()
    with torch.no_grad():  # the row and the column of each patch, as distances from the middle
        weaktr.pos_embed[0, CLASSES:, :2] = torch.cartesian_prod(torch.arange(-1.0, 2.0), torch.arange(-1.0, 2.0))
    row, column = weaktr.positions((rows, columns))[0, CLASSES:, :2].T.reshape(2, rows, columns)
    for places in (row, column.T):
        torch.testing.assert_close(places, places[:, :1].expand_as(places))
        assert (places.diff(dim=0) > 0).all()
        torch.testing.assert_close(places.flip(0), -places)


@both_modes
@given(st.integers(4, 26), st.integers(4, 26))
@settings(max_examples=10)
def test_any_size_gives_maps_of_whole_patches(mode: FusionMode, height: int, width: int) -> None:
    out = network(mode)(tiles(1, height, width))
    assert out.fine.shape == out.coarse.shape == (1, CLASSES, height // PATCH, width // PATCH)
    assert all(part.isfinite().all() for part in out)


@both_modes
def test_tiles_of_a_batch_do_not_see_each_other(mode: FusionMode) -> None:
    weaktr, x = network(mode), tiles(4)
    together = weaktr(x)
    singles = [weaktr(tile[None]) for tile in x]
    assert_same(together, WeakTrOutput(*(torch.cat(parts) for parts in zip(*singles, strict=True))))
    order = torch.tensor([2, 0, 3, 1])
    assert_same(weaktr(x[order]), WeakTrOutput(*(part[order] for part in together)))


@both_modes
def test_half_precision_says_the_same_roughly(mode: FusionMode) -> None:
    torch.manual_seed(0)
    weaktr, tags = WeakTr(weaktr_config(VIT, mode)), torch.tensor([[1, 0, 0, 1], [0, 1, -1, 0]])
    expected = weaktr(tiles())
    with torch.autocast("cpu", torch.bfloat16):
        out = weaktr(tiles())
        repaired(out, tags).backward()
    for value, exact in zip(out, expected, strict=True):
        assert (value.float() - exact).abs().max() < 0.05
    assert all(p.grad is None or p.grad.isfinite().all() for p in weaktr.parameters())


# --- fusion ---------------------------------------------------------------------------------------------------------


def test_equal_weights_of_one_give_rows_that_sum_to_one() -> None:
    fused = fuse_attention(random_attention(), torch.ones(2, 5), torch.ones(5))
    torch.testing.assert_close(fused.sum(-1), torch.ones(2, 7))


def test_rows_sum_to_the_mean_weight() -> None:
    weights = torch.rand(2, 5, generator=torch.Generator().manual_seed(0))
    fused = fuse_attention(random_attention(), weights, torch.ones(5))
    torch.testing.assert_close(fused.sum(-1), weights.mean(1, keepdim=True).expand(2, 7))


@pytest.mark.parametrize("head", range(5))
def test_weight_zero_removes_exactly_its_head(head: int) -> None:
    attention, is_open = random_attention(), torch.ones(5)
    weights = torch.rand(2, 5, generator=torch.Generator().manual_seed(0))
    without = weights.clone()
    without[:, head] = 0
    gap = fuse_attention(attention, weights, is_open) - fuse_attention(attention, without, is_open)
    expected = weights[:, head, None, None] * torch.cat(attention, 1)[:, head] / 5
    torch.testing.assert_close(gap, expected)


@both_modes
def test_attention_added_block_by_block_equals_the_stack_of_all(mode: FusionMode) -> None:
    weaktr, x = network(mode), tiles()
    out = weaktr(x)
    tokens = torch.cat([weaktr.class_tokens.expand(2, -1, -1), weaktr.patch_embed(x).flatten(2).transpose(1, 2)], 1)
    tokens, stack, alike = tokens + weaktr.pos_embed, [], []
    for block in weaktr.blocks:
        assert isinstance(block, Block)
        alike.append(patch_similarity(block.observe(tokens)[1], CLASSES))
        tokens, attention = block(tokens, need_attention=True)
        stack.append(attention)
    weights = out.head_weights[:, :, None, None]
    cross, affinity = split_attention((weights * torch.cat(stack, 1)).mean(1), CLASSES, (3, 3))
    if mode == "repaired":
        cross, affinity = normalise_attention(cross, (weights * torch.cat(alike, 1)).mean(1))
    torch.testing.assert_close(out.cross, cross, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(out.fine, fine_cam(out.coarse, cross, affinity), rtol=1e-4, atol=1e-6)


def test_weights_follow_the_published_equations() -> None:
    torch.manual_seed(0)
    fusion, features = AttentionFusion(6, 5, 3, 2), torch.randn(2, 6, 5)
    first, second = fusion.feature
    assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
    score = (features @ first.weight.T + first.bias) @ second.weight.T + second.bias
    expected = torch.sigmoid((score[..., 0] @ fusion.squeeze.weight.T).relu() @ fusion.excite.weight.T)
    torch.testing.assert_close(fusion(features, torch.ones(6)), expected)


def test_weights_come_from_outputs_of_heads_because_mean_attention_would_say_nothing() -> None:
    weaktr, seen = network(), []
    weaktr.fusion.register_forward_hook(lambda _, __, weights: seen.append(weights))
    weaktr(tiles())
    assert (seen[0][0] - seen[0][1]).abs().max() > 1e-3  # of two tiles
    first = weaktr.blocks[0]
    assert isinstance(first, Block)
    states = first.attn.attend(torch.randn(2, 7, 12))
    torch.testing.assert_close(first.attn.attention(states).mean((2, 3)), torch.full((2, HEADS[0]), 1 / 7))


def test_a_feature_is_the_largest_output_of_a_head_before_the_projection() -> None:
    weaktr, x = network(), tiles()
    seen: list[Tensor] = []
    weaktr.fusion.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    weaktr(x)
    tokens = torch.cat([weaktr.class_tokens.expand(2, -1, -1), weaktr.patch_embed(x).flatten(2).transpose(1, 2)], 1)
    first, last = weaktr.blocks
    assert isinstance(first, Block) and isinstance(last, Block)
    heads = first.attn.attend(first.norm1(tokens + weaktr.pos_embed))
    torch.testing.assert_close(seen[0][:, : HEADS[0]], heads.output.max(dim=2).values)
    with torch.no_grad():  # the projection of the last block may be anything
        last.attn.proj.weight.mul_(-2)
    weaktr(x)
    torch.testing.assert_close(seen[0], seen[1])
    assert seen[0].shape == (2, sum(HEADS), VIT.head_width)


def test_without_attention_the_fine_map_is_the_positive_coarse_map() -> None:
    coarse = torch.randn(2, CLASSES, 3, 4, generator=torch.Generator().manual_seed(0))
    fine = fine_cam(coarse, torch.ones_like(coarse), torch.eye(12).expand(2, -1, -1))
    torch.testing.assert_close(fine, coarse.relu())


def test_the_fine_map_is_linear_in_the_positive_coarse_map() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b, cross = (torch.rand(2, CLASSES, 3, 4, generator=draw) for _ in range(3))
    affinity = torch.rand(2, 12, 12, generator=draw)
    both = fine_cam(2 * a + b, cross, affinity)
    torch.testing.assert_close(both, 2 * fine_cam(a, cross, affinity) + fine_cam(b, cross, affinity))
    assert (fine_cam(-a, cross, affinity) == 0).all()


def test_affinity_moves_evidence_from_the_patch_looked_at_to_the_patch_that_looks() -> None:
    coarse = torch.zeros(1, 1, 2, 3)
    coarse[0, 0, 0, 1] = 1  # patch 1 of 6, row-major
    affinity = torch.zeros(1, 6, 6)
    affinity[0, 5, 1] = 1
    fine = fine_cam(coarse, torch.ones_like(coarse), affinity)
    assert fine[0, 0, 1, 2] == 1 and fine.sum() == 1


def test_similarity_links_patches_of_a_kind_whatever_they_look_at() -> None:
    kinds = F.one_hot(torch.tensor([0, 0, 1, 1, 0, 1, 0]), 2).float()  # a class token, then six patches of two kinds
    query, key = 4 * kinds, 4 * kinds.flip(1)  # each asks for the other kind
    query, key = (v[None, None].expand(1, 2, -1, -1) for v in (query, key))
    heads = HeadStates(query, query, key, torch.tensor([1.0, 0.0]))
    alike, kind = patch_similarity(heads, classes=1), kinds[1:, 0]
    torch.testing.assert_close(alike.sum(-1), torch.tensor([1.0, 0.0])[None, :, None].expand(1, 2, 6))
    same = kind[:, None] == kind
    assert alike[0, 0][same].min() > 100 * alike[0, 0][~same].max()


def test_without_the_rows_of_patches_the_attention_of_class_tokens_is_the_same() -> None:
    fused = random_attention((1,))[0][:, 0]
    cross, affinity = split_attention(fused[:, :3], 3, (2, 2))
    assert torch.equal(cross, split_attention(fused, 3, (2, 2))[0]) and affinity.shape == (2, 0, 4)


@given(st.floats(1e-3, 1e3), st.integers(0, 20))
@settings(max_examples=15)
def test_normalised_attention_has_no_scale(factor: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    cross, affinity = torch.rand(2, CLASSES, 3, 3, generator=draw) + 0.1, torch.rand(2, 9, 9, generator=draw) + 0.1
    once, scaled = normalise_attention(cross, affinity), normalise_attention(cross * factor, affinity * factor)
    torch.testing.assert_close(once, scaled)
    torch.testing.assert_close(once[1].sum(2), torch.ones(2, 9))
    torch.testing.assert_close(once[0].mean((2, 3)), torch.ones(2, CLASSES))


def test_only_repaired_fine_predictions_have_two_sides() -> None:
    assert (network("faithful")(tiles(8)).fine_tags >= 0).all()
    torch.manual_seed(0)
    fresh = WeakTr(weaktr_config(VIT, "repaired")).fine_head
    assert fresh is not None
    maps = torch.tensor([0.0, 0.5, 2.0, 4.0])[None, :, None, None].expand(1, -1, 3, 3)
    assert (fresh(maps)[0] > 0).tolist() == [False, False, True, True]


# --- gradients ------------------------------------------------------------------------------------------------------


def touched(weaktr: WeakTr, part: Callable[[WeakTrOutput], Tensor]) -> set[str]:
    """The rooms of the network that a part of the output trains."""
    weaktr.zero_grad()
    part(weaktr(tiles())).square().sum().backward()
    trained = {name for name, p in weaktr.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    return {name.split(".")[0] for name in trained}


ENCODER = {"patch_embed", "class_tokens", "pos_embed", "blocks"}


@both_modes
def test_class_tokens_and_coarse_maps_train_the_encoder_and_never_the_fusion(mode: FusionMode) -> None:
    assert touched(network(mode), lambda out: out.tags) == ENCODER
    assert touched(network(mode), lambda out: out.coarse_tags) == ENCODER | {"cam_head"}


def test_the_published_fine_loss_trains_the_fusion_alone() -> None:
    assert touched(network("faithful"), lambda out: out.fine_tags) == {"fusion"}


def test_the_repaired_fine_loss_trains_everything_unless_detached() -> None:
    assert touched(network(), lambda out: out.fine_tags) == ENCODER | {"cam_head", "fusion", "fine_head"}
    assert touched(network(detached=True), lambda out: out.fine_tags) == {"fusion", "fine_head"}


@pytest.mark.parametrize(("mode", "detached"), [("faithful", True), ("repaired", True), ("repaired", False)])
def test_a_detached_fine_loss_moves_no_gate_that_was_drawn(mode: FusionMode, detached: bool) -> None:
    weaktr = network(mode, detached).train()
    weaktr.set_gate_mode(GateMode.SAMPLE)
    rooms = touched(weaktr, lambda out: out.fine_tags)
    assert rooms - {"fine_head"} == ({"fusion"} if detached else ENCODER | {"cam_head", "fusion"})
    gradients = [gate.log_alpha.grad for gate in weaktr.gates()]
    assert any(g is not None and g.abs().sum() > 0 for g in gradients) != detached


def test_a_detached_network_says_the_same() -> None:
    assert_same(network(detached=True)(tiles()), network(detached=False)(tiles()))


# --- gates ----------------------------------------------------------------------------------------------------------


@both_modes
@settings(max_examples=15)
@given(MASKS)
def test_pruned_equals_masked(mode: FusionMode, keep: list[bool]) -> None:
    masked, pruned, x = network(mode), network(mode), tiles()
    masked.set_head_mask(split(keep))
    pruned.prune(split(keep))
    expected, out = masked(x), pruned(x)
    assert_same(out, expected, but=("head_weights",))
    torch.testing.assert_close(out.head_weights, expected.head_weights[:, torch.tensor(keep)])
    assert pruned.config.vit.heads == tuple(int(m.sum()) for m in split(keep))


@both_modes
@pytest.mark.parametrize("head", range(sum(HEADS)))
def test_a_closed_head_has_no_say_in_the_fusion(mode: FusionMode, head: int) -> None:
    weaktr, x = network(mode), tiles()
    weaktr.set_head_mask(split([h != head for h in range(sum(HEADS))]))
    before = weaktr(x)
    with torch.no_grad():
        weaktr.fusion.squeeze.weight[:, head] += 3
        weaktr.fusion.excite.weight[head] -= 3
    assert_same(weaktr(x), before)
    assert (before.head_weights == 0).sum(1).tolist() == [1, 1] and (before.head_weights[:, head] == 0).all()


@both_modes
def test_open_gates_are_as_if_they_were_not_there(mode: FusionMode) -> None:
    weaktr, x = network(mode), tiles()
    expected = weaktr(x)
    weaktr.set_head_mask(split([True] * sum(HEADS)))
    assert_same(weaktr(x), expected)


@both_modes
def test_without_any_heads_there_are_no_fine_maps_and_no_nan(mode: FusionMode) -> None:
    weaktr, tags = network(mode), torch.tensor([[1, 0, 0, 1], [0, 1, -1, 0]])
    weaktr.set_head_mask(split([False] * sum(HEADS)))
    out = weaktr(tiles())
    assert (out.fine == 0).all()
    repaired(out, tags).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in weaktr.parameters())
    weaktr.prune(split([False] * sum(HEADS)))
    assert_same(weaktr(tiles()), out, but=("head_weights",))


@both_modes
def test_a_pruned_network_can_be_built_from_its_configuration(mode: FusionMode) -> None:
    weaktr, x = network(mode), tiles(1)
    weaktr.prune(split([True, False, True, False, True]))
    rebuilt = WeakTr(weaktr.config).eval()
    rebuilt.load_state_dict(weaktr.state_dict())
    assert_same(rebuilt(x), weaktr(x))


@both_modes
def test_the_head_budget_closes_heads_while_the_network_trains(mode: FusionMode) -> None:
    weaktr, tags = network(mode).train(), torch.tensor([[1, 0, 0, 1], [0, 1, -1, 0]])
    budget = HeadBudget(weaktr.gates(), keep=2)
    weaktr.set_gate_mode(GateMode.SAMPLE)
    optimiser = torch.optim.Adam(weaktr.parameters(), lr=0.05)
    for step in range(4):
        optimiser.zero_grad()
        (repaired(weaktr(tiles()), tags) + budget.penalty()).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in weaktr.parameters())
        optimiser.step()
        budget.project((step + 1) / 4)
    weaktr.prune(budget.mask())
    assert weaktr.eval()(tiles()).head_weights.shape == (2, 2)


# --- losses ---------------------------------------------------------------------------------------------------------


@both_modes
def test_with_all_tags_known_each_part_is_the_soft_margin_loss(mode: FusionMode) -> None:
    out, tags = network(mode)(tiles()), torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0]])
    losses = class_token_losses(out, tags)
    logits = (out.tags, out.coarse_tags, out.fine_tags)
    expected = [F.multilabel_soft_margin_loss(x, tags.float()) for x in logits]
    torch.testing.assert_close(list(losses[:3]), expected)
    torch.testing.assert_close(expected[0], F.binary_cross_entropy_with_logits(out.tags, tags.float()))
    torch.testing.assert_close(faithful_loss(out, tags), sum(expected))


def test_the_repaired_loss_adds_fractions_balance_and_few_heads() -> None:
    out, tags = network()(tiles()), torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0]])
    fractions = fraction_loss(out.coarse, VALID, tags, 0.1)
    torch.testing.assert_close(
        repaired(out, tags), faithful_loss(out, tags) + fractions + HEAD_ENTROPY * head_spread(out.head_weights)
    )
    weights = balance(torch.tensor([[1, 0, 0, 0]] * 3 + [[0, 1, 1, 1]]))
    weighted, plain = class_token_losses(out, tags, weights), class_token_losses(out, tags)
    assert not any(torch.allclose(a, b) for a, b in zip(weighted[:3], plain[:3], strict=True))


def test_weights_of_classes_are_those_of_absent_tags_and_then_of_present_ones() -> None:
    out, tags = network()(tiles()), torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0]])
    weights = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    chosen = torch.tensor([[5.0, 2, 3, 8], [1, 6, 7, 4]])
    losses = class_token_losses(out, tags, weights)
    for loss, logits in zip(losses[:3], (out.tags, out.coarse_tags, out.fine_tags), strict=True):
        expected = F.binary_cross_entropy_with_logits(logits, tags.float(), chosen, reduction="sum") / chosen.sum()
        torch.testing.assert_close(loss, expected)


def outputs(batch: int) -> WeakTrOutput:
    draw = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(batch, CLASSES, generator=draw).requires_grad_(True) for _ in range(3))
    maps = torch.zeros(batch, CLASSES, 3, 3)
    return WeakTrOutput(a, b, c, maps, maps, maps, torch.ones(batch, 5))


@pytest.mark.parametrize("loss", [faithful_loss, repaired])
def test_unknown_tags_have_no_gradient(loss: Callable[[WeakTrOutput, Tensor], Tensor]) -> None:
    out, tags = outputs(3), torch.tensor([[1, 0, -1, 0], [-1, -1, -1, -1], [0, -1, 1, 1]])
    loss(out, tags).backward()
    for logits in (out.tags, out.coarse_tags, out.fine_tags):
        assert logits.grad is not None and torch.equal(logits.grad == 0, tags < 0)


@pytest.mark.parametrize("loss", [faithful_loss, repaired])
def test_tags_that_are_all_unknown_teach_no_class(loss: Callable[[WeakTrOutput, Tensor], Tensor]) -> None:
    out = outputs(2)
    value = loss(out, torch.full((2, CLASSES), -1))
    value.backward()
    assert value.isfinite()
    assert all(x.grad is not None and (x.grad == 0).all() for x in (out.tags, out.coarse_tags, out.fine_tags))


@both_modes
def test_a_class_that_is_never_known_leaves_its_map_as_it_was(mode: FusionMode) -> None:
    weaktr, tags = network(mode), torch.tensor([[1, 0, -1, 1], [0, 1, -1, 0]])
    faithful_loss(weaktr(tiles()), tags).backward()
    gradient = weaktr.cam_head.weight.grad
    assert gradient is not None and (gradient[2] == 0).all() and all((gradient[c] != 0).any() for c in (0, 1, 3))


def test_head_spread_is_one_for_equal_weights_and_zero_for_a_single_head() -> None:
    assert head_spread(torch.full((2, 5), 0.3)).item() == pytest.approx(1)
    assert head_spread(torch.tensor([[0, 0.7, 0, 0, 0]])).item() == pytest.approx(0)
    weights = torch.tensor([[0.9, 0.5, 0.1, 0.0, 0.0]], requires_grad=True)
    head_spread(weights).backward()
    assert weights.grad is not None and weights.grad.isfinite().all() and weights.grad[0, 0] < 0 < weights.grad[0, 2]
    assert head_spread(torch.zeros(2, 5)).item() == 0 and head_spread(torch.ones(2, 1)).item() == 0


# --- maps -----------------------------------------------------------------------------------------------------------


class PatchMeans(nn.Module):
    """A stand-in whose fine maps are the means of patches of the bands."""

    config = SimpleNamespace(vit=SimpleNamespace(patch=PATCH))

    def forward(self, x: Tensor) -> WeakTrOutput:
        nothing: Any = None
        return WeakTrOutput(x.mean((2, 3)), nothing, nothing, nothing, nothing, F.avg_pool2d(x, PATCH), nothing)


means: Any = PatchMeans()


def maps_of(weaktr: Any, x: Tensor, method: MapMethod = "fine_cam", views: Views = ONE_VIEW) -> Tensor:
    return class_maps(weaktr, x, method, views)[0]


@both_modes
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("height", "width"), [(12, 12), (13, 18)])
def test_maps_have_the_pixels_of_the_tile(mode: FusionMode, method: MapMethod, height: int, width: int) -> None:
    maps = maps_of(network(mode), tiles(2, height, width), method)
    assert maps.shape == (2, CLASSES, height, width) and (maps >= 0).all()


@both_modes
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("width", [12, 14])
def test_maps_averaged_with_the_mirror_image_mirror_with_the_tile(
    mode: FusionMode, method: MapMethod, width: int
) -> None:
    weaktr, x, both = network(mode), tiles(2, 12, width), Views((1.0,), mirrored=True)
    (mirrored, same), (maps, tags) = class_maps(weaktr, x.flip(3), method, both), class_maps(weaktr, x, method, both)
    torch.testing.assert_close(mirrored, maps.flip(3))
    torch.testing.assert_close(same, tags)
    assert not torch.allclose(maps_of(weaktr, x.flip(3), method), maps_of(weaktr, x, method).flip(3))


@both_modes
@pytest.mark.parametrize("method", METHODS)
def test_what_several_views_show_is_their_mean(mode: FusionMode, method: MapMethod) -> None:
    weaktr, x = network(mode), tiles(2, 12, 14)
    maps, tags = class_maps(weaktr, x, method, PUBLISHED_VIEWS)
    views = [class_maps(weaktr, x, method, Views((s,))) for s in (1.0, 1.2)]
    mirrored = [class_maps(weaktr, x.flip(3), method, Views((s,))) for s in (1.0, 1.2)]
    torch.testing.assert_close(maps, torch.stack([v[0] for v in views] + [v[0].flip(3) for v in mirrored]).mean(0))
    torch.testing.assert_close(tags, torch.stack([v[1] for v in views + mirrored]).mean(0))


def test_one_scale_is_no_scale_and_their_order_is_irrelevant() -> None:
    weaktr, x = network(), tiles()
    output = weaktr(x)
    single = F.interpolate(token_maps(output, "fine_cam"), size=(12, 12), mode="bilinear", align_corners=False)
    maps, tags = class_maps(weaktr, x, "fine_cam")
    torch.testing.assert_close(maps, single)
    torch.testing.assert_close(tags, output.tags)
    torch.testing.assert_close(maps_of(weaktr, x, views=Views((1.0, 1.5))), maps_of(weaktr, x, views=Views((1.5, 1.0))))
    torch.testing.assert_close(maps_of(weaktr, x, views=Views((1.0, 1.0))), single)


@given(st.data())
@settings(max_examples=40)
def test_a_bright_pixel_stays_within_half_a_patch(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(5, 27)), data.draw(st.integers(5, 27))
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    x = torch.zeros(1, 3, height, width)
    x[:, :, row, column] = 1
    peak = maps_of(means, x)[0, 0]
    rows, columns = torch.nonzero(peak >= peak.max() * 0.999).float().T
    assert (rows - row).abs().min() <= PATCH / 2 and (columns - column).abs().min() <= PATCH / 2


def test_maps_at_another_scale_lie_where_the_tile_has_them() -> None:
    x = torch.zeros(1, 3, 16, 16)
    x[:, :, 4:8, 8:12] = 1
    maps = maps_of(means, x, views=Views((1.5,)))[0, 0]
    row, column = divmod(int(maps.argmax()), 16)
    assert 4 <= row < 8 and 8 <= column < 12


# --- evidence -------------------------------------------------------------------------------------------------------


def random_maps(seed: int = 0) -> Tensor:
    return torch.rand(3, CLASSES, 6, 6, generator=torch.Generator().manual_seed(seed))


PRESENT = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]).bool()


def test_a_map_counts_by_what_is_usual_for_its_class() -> None:
    maps = random_maps()
    normalised = normalise_maps(maps, torch.tensor([0.5, 1.0, 2.0, 0.0]))
    torch.testing.assert_close(normalised[:, 0], (2 * maps[:, 0]).clamp_max(1))
    assert torch.equal(normalised[:, 1], maps[:, 1]) and torch.equal(normalised[:, 2], maps[:, 2] / 2)
    assert normalised.isfinite().all() and normalised.max() == 1


def test_an_empty_map_of_a_class_without_a_peak_is_empty_and_not_nan() -> None:
    assert (normalise_maps(torch.zeros(1, CLASSES, 4, 4), torch.zeros(CLASSES)) == 0).all()


def test_a_class_of_the_scene_is_not_hallucinated_in_a_tile_without_it() -> None:
    maps = random_maps()
    maps[1, 0] *= 0.01  # in the second tile only a trace of the first class
    normalised = normalise_maps(maps, maps.amax((0, 2, 3)))
    assert normalised[1, 0].max() < 0.02 and normalised[:, 0].max() == pytest.approx(1)
    assert map_evidence(normalised, torch.ones(3, CLASSES))[1, 0].max() < 0.1


def test_a_known_tag_decides_and_an_unknown_one_leaves_it_to_the_prediction() -> None:
    how_far = presence(torch.tensor([[-9.0, 9.0, 0.0, 9.0]]), torch.tensor([[1, 0, -1, -1]]))
    assert how_far[0].tolist() == pytest.approx([1, 0, 0.5, 1], abs=1e-3)


def test_evidence_is_shared_out_among_the_classes_that_occur() -> None:
    evidence = map_evidence(random_maps() + 0.01, PRESENT.float())
    torch.testing.assert_close(evidence.sum(1)[:2], torch.ones(2, 6, 6))
    assert (evidence[~PRESENT] == 0).all() and evidence.isfinite().all()


@settings(max_examples=20)
@given(st.integers(0, 99), st.floats(0, 0.99))
def test_labels_are_classes_that_occur_or_ignored(seed: int, margin: float) -> None:
    evidence = map_evidence(random_maps(seed), PRESENT.float()).numpy()
    for i in range(3):
        labels, _ = label(evidence[i], PRESENT[i].numpy()[:, None, None].repeat(6, 1).repeat(6, 2), margin)
        assert set(np.unique(labels)) <= {UNLABELLED, *torch.nonzero(PRESENT[i]).flatten().tolist()}


def test_a_tile_without_tags_is_all_ignored() -> None:
    evidence = map_evidence(random_maps()[:1], torch.zeros(1, CLASSES))
    labels, margin = label(evidence[0].numpy(), np.zeros((CLASSES, 6, 6), bool), 0.1)
    assert (labels == UNLABELLED).all() and np.isfinite(margin).all()


# --- the whole ------------------------------------------------------------------------------------------------------


def mosaics(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Tiles `[N, 3, 16, 16]` of two of three textures side by side, and their classes `[N, 16, 16]`."""
    draw = torch.Generator().manual_seed(seed)
    classes = torch.zeros(count, 16, 16, dtype=torch.long)
    for tile in classes:
        a, b = torch.randperm(3, generator=draw)[:2]
        edge = int(torch.randint(1, 4, (1,), generator=draw)) * 4
        tile[:, :edge], tile[:, edge:] = a, b
        if torch.rand(1, generator=draw) < 0.5:
            tile.copy_(tile.clone().T)
    values = F.one_hot(classes, 3).permute(0, 3, 1, 2).float()
    return 2 * values - 1 + 0.5 * torch.randn(count, 3, 16, 16, generator=draw), classes


def learned(steps: int) -> WeakTr:
    torch.manual_seed(0)
    vit = ViTConfig(3, 3, 16, 4, 24, (2, 2), 12, 48)
    weaktr = WeakTr(weaktr_config(vit))
    x, classes = mosaics(128, seed=0)
    tags, valid = F.one_hot(classes, 3).amax((1, 2)), torch.ones(32, 16, 16)
    optimiser = torch.optim.AdamW(weaktr.parameters(), lr=3e-3)
    for _ in range(steps):
        chosen = torch.randint(0, len(x), (32,))
        optimiser.zero_grad()
        repaired_loss(weaktr(x[chosen]), valid, tags[chosen], presence_threshold=0.1).backward()
        optimiser.step()
    return weaktr.eval()


@both_modes
def test_the_same_seed_gives_the_same_losses_step_by_step(mode: FusionMode) -> None:
    def losses(seed: int) -> list[float]:
        torch.manual_seed(seed)
        weaktr, tags, values = WeakTr(weaktr_config(VIT, mode)), torch.tensor([[1, 0, 0, 1], [0, 1, -1, 0]]), []
        weaktr.set_gate_mode(GateMode.SAMPLE)
        optimiser = torch.optim.AdamW(weaktr.parameters(), lr=0.01)
        for step in range(10):
            optimiser.zero_grad()
            loss = repaired(weaktr(tiles(seed=step)), tags)
            loss.backward()
            optimiser.step()
            values.append(loss.item())
        return values

    first = losses(0)
    assert first == losses(0) and first != losses(1)


def test_tags_alone_teach_where_classes_are() -> None:
    weaktr = learned(steps=150)
    x, classes = mosaics(64, seed=1)
    tags = F.one_hot(classes, 3).amax((1, 2))
    with torch.inference_mode():
        out = weaktr(x)
        for logits in (out.tags, out.coarse_tags, out.fine_tags):
            assert ((logits > 0) == tags.bool()).float().mean() > 0.95
        # Without a side below zero the absent class alone would cost more.
        assert F.binary_cross_entropy_with_logits(out.fine_tags, tags.float()) < 0.5 * math.log(2)
        for method in METHODS:
            maps = maps_of(weaktr, x, method)
            evidence = map_evidence(normalise_maps(maps, maps.amax((0, 2, 3))), tags.float())
            assert (evidence.argmax(1) == classes).float().mean() > 0.75
