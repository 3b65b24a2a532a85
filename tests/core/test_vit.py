"""The gated vision transformer: its size, its gates, its attention, and heads that are cut out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsevit.models.gates import GateMode
from sparsevit.models.model_file import parameter_count
from sparsevit.models.spectral import SpectralNetwork
from sparsevit.models.vit import PRESETS, GatedAttention, SparseViT, ViTConfig, patch_embedding, preset_config
from sparsevit.weak.attention import class_attention, head_maps, open_heads

WIDTH, HEADS, HEAD_WIDTH = 12, 4, 5  # 4 · 5 ≠ 12: nothing may rely on heads · head width = width
SMALL = ViTConfig(3, 5, 12, 4, WIDTH, (HEADS, HEADS), HEAD_WIDTH, 16)
MASKS = st.lists(st.booleans(), min_size=2 * HEADS, max_size=2 * HEADS)


def network(config: ViTConfig = SMALL, seed: int = 0) -> SparseViT:
    torch.manual_seed(seed)
    vit = SparseViT(config).eval()
    for parameter in vit.parameters():  # norms and biases away from 1 and 0, scores away from each other
        torch.nn.init.normal_(parameter, std=0.5)
    return vit


def tiles(count: int = 2, config: ViTConfig = SMALL) -> Tensor:
    return torch.randn(count, config.channels, config.tile, config.tile, generator=torch.Generator().manual_seed(1))


def attention(seed: int = 0) -> GatedAttention:
    torch.manual_seed(seed)
    return GatedAttention(WIDTH, HEADS, HEAD_WIDTH).eval()


def tokens() -> Tensor:
    return torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(1))


def close(module: GatedAttention, keep: list[bool]) -> None:
    module.gates.set_mask(torch.tensor(keep))
    module.gates.mode = GateMode.THRESHOLD


# --- size ---------------------------------------------------------------------------------------------------------


def test_reference_preset_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        vit = SparseViT(preset_config("reference", channels=13, classes=8, tile=64, patch=4))
    assert parameter_count(vit) == 103_646_408
    assert (vit.config.tile, vit.config.patch, sum(vit.config.heads)) == (224, 14, 192)


def test_reference_preset_with_radar_has_the_published_number_less_one_redundant_bias() -> None:
    with torch.device("meta"):
        vit = SparseViT(preset_config("reference", channels=15, classes=8, tile=64, patch=4))
    assert parameter_count(vit) == 104_048_840 - 1024  # one embedding per sensor has a bias each; their sum needs one


@pytest.mark.parametrize("name", [n for n in PRESETS if n != "reference"])
def test_other_presets_take_tile_and_patch_from_the_user(name: str) -> None:
    config = preset_config(name, channels=4, classes=3, tile=32, patch=8)
    assert (config.tile, config.patch, config.grid, config.token_maps) == (32, 8, 4, True)
    assert len(config.heads) == PRESETS[name].depth


def test_outputs_have_the_documented_shapes() -> None:
    out = network()(tiles(), need_attention=True)
    assert out.tags.shape == (2, 5)
    assert out.token_logits is not None and out.token_logits.shape == (2, 5, 3, 3)
    assert out.attention is not None and out.attention.shape == (2, HEADS, 10, 10)


def test_attention_and_token_maps_are_given_only_where_wanted() -> None:
    out = network(replace(SMALL, token_maps=False))(tiles())
    assert out.token_logits is None and out.attention is None


def test_one_embedding_of_all_bands_is_the_sum_of_one_per_sensor() -> None:
    embed, x = network().patch_embed, tiles()
    first, second = x.clone(), x.clone()
    first[:, 2:], second[:, :2] = 0, 0
    bias = embed.bias[None, :, None, None]
    torch.testing.assert_close(embed(x), embed(first) + embed(second) - bias)


def test_a_stem_sees_two_pixels_beyond_the_patch() -> None:
    torch.manual_seed(0)
    embed, x = patch_embedding(replace(SMALL, stem_width=6)).eval(), tiles()
    assert embed(x).shape == (2, WIDTH, 3, 3)
    for row, seen in ((1, False), (2, True), (9, True), (10, False)):  # the middle patches are rows 4 to 7
        changed = x.clone()
        changed[:, :, row, 5] += 1
        assert bool((embed(changed) != embed(x))[:, :, 1, 1].any()) == seen, row


def test_only_the_published_preset_has_linear_patches() -> None:
    assert [n for n in PRESETS if preset_config(n, 4, 3, 32, 8).stem_width == 0] == ["reference"]


def test_a_larger_tile_has_a_larger_class_map() -> None:
    out = network()(torch.randn(2, 3, 16, 24))
    assert out.token_logits is not None and out.token_logits.shape == (2, 5, 4, 6)


# --- gates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [GateMode.THRESHOLD, GateMode.SAMPLE])
@pytest.mark.parametrize("training", [True, False])
def test_gates_at_plus_20_reproduce_the_ungated_network(mode: GateMode, training: bool) -> None:
    vit, x = network(), tiles()
    expected = vit(x)
    for gate in vit.gates():
        gate.log_alpha.data.fill_(20)
    vit.set_gate_mode(mode)
    out = vit.train(training)(x)
    torch.testing.assert_close(out.tags, expected.tags, rtol=0, atol=1e-6)
    torch.testing.assert_close(out.token_logits, expected.token_logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("head", range(HEADS))
def test_closed_gate_removes_exactly_its_head(head: int) -> None:
    module, x = attention(), tokens()
    full, weights = module(x, need_attention=True)
    close(module, [h != head for h in range(HEADS)])
    masked, _ = module(x)
    value = module.qkv(x).view(2, 7, 3, HEADS, HEAD_WIDTH)[:, :, 2, head]
    part = module.proj.weight[:, head * HEAD_WIDTH : (head + 1) * HEAD_WIDTH]
    torch.testing.assert_close(full - masked, weights[:, head] @ value @ part.T, rtol=0, atol=1e-5)


def test_all_gates_closed_leave_the_bias_of_the_projection() -> None:
    module, x = attention(), tokens()
    close(module, [False] * HEADS)
    torch.testing.assert_close(module(x)[0], module.proj.bias.expand(2, 7, -1))


@settings(max_examples=25)
@given(st.lists(st.floats(0, 1), min_size=HEADS, max_size=HEADS))
def test_gating_the_attention_equals_gating_the_output(gate: list[float]) -> None:
    module, x, factor = attention(), tokens(), torch.tensor(gate, dtype=torch.float32)
    q, k, v = module.qkv(x).view(2, 7, 3, HEADS, HEAD_WIDTH).permute(2, 0, 3, 1, 4)
    weights = torch.softmax(q @ k.transpose(-2, -1) / HEAD_WIDTH**0.5, dim=-1)
    gated = (weights * factor[:, None, None]) @ v
    module.gates.forward = lambda: factor  # type: ignore[method-assign]
    expected = module.proj(gated.transpose(1, 2).reshape(2, 7, -1))
    for need in (True, False):
        torch.testing.assert_close(module(x, need)[0], expected, rtol=0, atol=1e-5)


def test_asking_for_the_attention_does_not_change_the_output() -> None:
    vit, x = network(), tiles()
    torch.testing.assert_close(vit(x, need_attention=True).tags, vit(x).tags, rtol=1e-4, atol=1e-5)


@settings(max_examples=25)
@given(MASKS)
def test_rows_of_the_gated_attention_sum_to_the_gate(keep: list[bool]) -> None:
    vit = network()
    vit.set_head_mask(list(torch.tensor(keep).split(HEADS)))
    weights = vit(tiles(), need_attention=True).attention
    assert weights is not None
    gate = torch.tensor(keep[HEADS:], dtype=torch.float32)
    torch.testing.assert_close(weights.sum(-1), gate[None, :, None].expand(2, -1, 10))
    for maps in head_maps(weights, 3, 12):
        assert open_heads(maps).tolist() == keep[HEADS:]


# --- physical pruning -----------------------------------------------------------------------------------------------


def assert_pruned_equals_masked(keep: list[bool], config: ViTConfig = SMALL) -> None:
    masks, x = list(torch.tensor(keep).split(HEADS)), tiles()
    masked, pruned = network(config), network(config)
    masked.set_head_mask(masks)
    pruned.prune(masks)
    expected, out = masked(x, need_attention=True), pruned(x, need_attention=True)
    torch.testing.assert_close(out.tags, expected.tags, rtol=0, atol=1e-5)
    torch.testing.assert_close(out.token_logits, expected.token_logits, rtol=0, atol=1e-5)
    assert expected.attention is not None
    torch.testing.assert_close(out.attention, expected.attention[:, masks[1]], rtol=0, atol=1e-5)


@settings(max_examples=25)
@given(MASKS)
def test_pruned_equals_masked(keep: list[bool]) -> None:
    assert_pruned_equals_masked(keep)


@pytest.mark.parametrize("keep", [[True] * HEADS, [False] * HEADS])
def test_pruning_all_or_no_heads_of_a_block_equals_masking(keep: list[bool]) -> None:
    assert_pruned_equals_masked([*keep, True, False, True, False])
    assert_pruned_equals_masked([True, False, True, False, *keep])


@settings(max_examples=25)
@given(MASKS)
def test_biases_of_queries_keys_and_values_go_with_their_heads(keep: list[bool]) -> None:
    assert_pruned_equals_masked(keep, replace(SMALL, qkv_bias=True))


@settings(max_examples=25)
@given(MASKS)
def test_pruning_drops_four_matrices_and_one_gate_per_head(keep: list[bool]) -> None:
    vit = network()
    before = parameter_count(vit)
    vit.prune(list(torch.tensor(keep).split(HEADS)))
    assert before - parameter_count(vit) == keep.count(False) * (4 * WIDTH * HEAD_WIDTH + 1)
    assert vit.config.heads == (sum(keep[:HEADS]), sum(keep[HEADS:]))


@settings(max_examples=25)
@given(MASKS, st.data())
def test_pruning_twice_equals_pruning_once(keep: list[bool], data: st.DataObject) -> None:
    again = [k and data.draw(st.booleans()) for k in keep]
    once, twice, x = network(), network(), tiles(1)
    first, last = torch.tensor(keep).split(HEADS), torch.tensor(again).split(HEADS)
    once.prune(list(last))
    twice.prune(list(first))
    twice.prune([b[a] for a, b in zip(first, last, strict=True)])
    torch.testing.assert_close(once(x).tags, twice(x).tags, rtol=0, atol=1e-5)


@settings(max_examples=25)
@given(MASKS)
def test_a_pruned_network_can_be_built_from_its_configuration(keep: list[bool]) -> None:
    vit, x = network(), tiles(1)
    vit.prune(list(torch.tensor(keep).split(HEADS)))
    rebuilt = SparseViT(vit.config).eval()
    rebuilt.load_state_dict(vit.state_dict())
    assert torch.equal(rebuilt(x).tags, vit(x).tags)


@settings(max_examples=25)
@given(MASKS)
def test_a_pruned_network_can_be_trained_on(keep: list[bool]) -> None:
    vit = network().train()
    vit.prune(list(torch.tensor(keep).split(HEADS)))
    out = vit(tiles())
    assert out.token_logits is not None
    (out.tags.square().mean() + out.token_logits.square().mean()).backward()
    weight = vit.patch_embed.weight.grad
    assert weight is not None and weight.isfinite().all() and weight.abs().sum() > 0


# --- orientation ----------------------------------------------------------------------------------------------------


@given(st.integers(1, 6).flatmap(lambda g: st.tuples(st.just(g), st.integers(0, g - 1), st.integers(0, g - 1))))
def test_planted_attention_lights_exactly_its_block(place: tuple[int, int, int]) -> None:
    grid, i, j = place
    planted = torch.zeros(1, 1, 1 + grid**2, 1 + grid**2)
    planted[0, 0, 0, 1 + i * grid + j] = 1
    patch = 3
    maps = torch.nn.functional.interpolate(class_attention(planted, grid), scale_factor=patch, mode="nearest")[0, 0]
    expected = torch.zeros(grid * patch, grid * patch)
    expected[i * patch : (i + 1) * patch, j * patch : (j + 1) * patch] = 1
    assert torch.equal(maps, expected)


@pytest.mark.parametrize(("i", "j"), [(0, 0), (0, 2), (2, 0), (1, 2)])
def test_a_patch_of_the_tile_is_the_same_patch_of_the_class_map(i: int, j: int) -> None:
    vit = network()
    vit.prune([torch.zeros(HEADS, dtype=torch.bool)] * 2)  # without attention tokens do not mix
    x = tiles(1)
    changed = x.clone()
    changed[:, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] += 1
    before, after = vit(x).token_logits, vit(changed).token_logits
    assert before is not None and after is not None
    moved = (after - before).abs().sum(1)[0] > 1e-6
    expected = torch.zeros(3, 3, dtype=torch.bool)
    expected[i, j] = True
    assert torch.equal(moved, expected)


def test_head_maps_of_a_closed_block_are_empty_rather_than_an_error() -> None:
    assert head_maps(torch.zeros(2, 0, 10, 10), 3, 12).shape == (2, 0, 12, 12)


def test_the_spectral_network_at_a_stride_is_the_whole_one_sampled() -> None:
    network, tiles = SpectralNetwork(3, 4, 8), torch.randn(2, 3, 10, 9)
    with torch.inference_mode():
        whole = network(tiles)
        for stride in (1, 2, 3, 4):
            assert torch.allclose(network(tiles, stride), whole[..., ::stride, ::stride], atol=1e-6)
