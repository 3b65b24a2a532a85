"""Segmenter: its size, its classes, tiles of any size, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import tagged_tiles, tiny_architecture
from torch import Tensor

from sparsevit.models.gates import GateMode
from sparsevit.models.landcover import LandCoverModel
from sparsevit.models.model_file import parameter_count
from sparsevit.models.segmenter import MaskTransformer, Segmenter, segmenter_on
from sparsevit.models.vit import SparseViT, ViTConfig, resampled_positions
from sparsevit.training.clipping import clipped_mean, clipping_rule

PATCH, CLASSES = 4, 5
SMALL = ViTConfig(3, CLASSES, 16, PATCH, 12, (4, 2), 3, 20)
SIDES = st.integers(1, 30)


def network(config: ViTConfig = SMALL, seed: int = 0) -> Segmenter:
    torch.manual_seed(seed)
    segmenter = Segmenter(config).eval()
    for parameter in segmenter.parameters():  # norms and biases away from 1 and 0
        torch.nn.init.normal_(parameter, std=0.5)
    return segmenter


def tiles(height: int = 16, width: int = 16, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def expected_parameters(c: ViTConfig, blocks: int) -> int:
    """Weights of an encoder with token positions, of a mask transformer, and one gate per head."""
    decoder_heads = (c.width // c.head_width,) * blocks
    heads = [4 * c.width * h * c.head_width + h for h in (*c.heads, *decoder_heads)]
    rest_of_block = 4 * c.width + c.width + 2 * c.width * c.mlp_width + c.mlp_width + c.width
    embedding = (c.channels * c.patch**2 + 1) * c.width + (2 + c.grid**2) * c.width
    decoder = (c.width + 1) * c.width + 2 * c.width**2 + c.classes * c.width + 2 * c.classes
    return sum(heads) + len(heads) * rest_of_block + embedding + decoder + 4 * c.width


# --- size ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [0, 1, 2])
@pytest.mark.parametrize("classes", [2, 7])
def test_the_number_of_parameters_is_the_formula(blocks: int, classes: int) -> None:
    config = replace(SMALL, classes=classes)
    assert parameter_count(Segmenter(config, blocks)) == expected_parameters(config, blocks)


def test_the_published_size_is_reached_with_what_is_left_out_here() -> None:
    config = ViTConfig(3, 150, 512, 16, 192, (3,) * 12, 64, 768)  # Segmenter with ViT-Ti/16: 6.91 million
    with torch.device("meta"):
        count = parameter_count(Segmenter(config))
    gates, biases_of_qkv, head_of_imagenet = 14 * 3, 14 * 3 * 192, 1000 * 193
    assert round((count - gates + biases_of_qkv + head_of_imagenet) / 1e6, 2) == 6.91


@settings(max_examples=25)
@given(SIDES, SIDES)
def test_tiles_of_any_size_have_logits_at_every_pixel(height: int, width: int) -> None:
    with torch.inference_mode():
        logits = network()(tiles(height, width))
    assert logits.shape == (2, CLASSES, height, width)
    assert logits.isfinite().all()


def test_every_parameter_but_the_gates_learns() -> None:
    segmenter = network().train()
    (segmenter(tiles(20, 12)) * torch.arange(CLASSES)[:, None, None]).square().mean().backward()
    for name, parameter in segmenter.named_parameters():
        gradient = parameter.grad
        assert name.endswith("log_alpha") or (gradient is not None and gradient.abs().sum() > 0), name


# --- classes ------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.permutations(range(CLASSES)))
def test_permuting_the_classes_permutes_the_logits(order: list[int]) -> None:
    segmenter, x = network(), tiles()
    expected = segmenter(x)[:, order]
    decoder = segmenter.decoder
    decoder.class_embed.data = decoder.class_embed.data[:, order]
    for parameter in decoder.class_norm.parameters():
        parameter.data = parameter.data[order]
    torch.testing.assert_close(segmenter(x), expected, rtol=1e-4, atol=1e-4)


def test_scores_are_standardised_over_the_classes() -> None:
    torch.manual_seed(0)
    decoder = MaskTransformer(SMALL)
    torch.nn.init.normal_(decoder.class_embed)  # fresh embeddings are so alike that the norm's epsilon shows
    scores = decoder(torch.randn(2, 9, SMALL.width))
    torch.testing.assert_close(scores.mean(-1), torch.zeros(2, 9), rtol=0, atol=1e-5)
    torch.testing.assert_close(scores.std(-1, correction=0), torch.ones(2, 9), rtol=0, atol=0.01)


@settings(max_examples=20)
@given(st.floats(0.1, 50), st.floats(0.1, 50))
def test_the_length_of_patch_and_class_features_does_not_matter(patches: float, classes: float) -> None:
    segmenter, x = network(), tiles()
    expected = segmenter(x)
    segmenter.decoder.patch_out.data *= patches
    segmenter.decoder.class_out.data *= classes
    torch.testing.assert_close(segmenter(x), expected, rtol=1e-4, atol=1e-4)


# --- places -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("i", "j"), [(0, 0), (0, 6), (4, 0), (2, 3)])
def test_a_patch_of_the_tile_moves_the_logits_around_it_and_nowhere_else(i: int, j: int) -> None:
    segmenter = network(replace(SMALL, heads=(0, 0)))
    for block in segmenter.decoder.blocks:  # without attention tokens do not mix
        block.attn.prune(torch.zeros(4, dtype=torch.bool))  # type: ignore[operator, union-attr]
    x = tiles(20, 28, 1)
    changed = x.clone()
    changed[:, :, PATCH * i : PATCH * (i + 1), PATCH * j : PATCH * (j + 1)] += 1
    moved = (segmenter(changed) - segmenter(x)).abs().sum(1)[0] > 1e-6
    rows, columns = moved.any(1).nonzero().flatten(), moved.any(0).nonzero().flatten()
    reach = PATCH // 2  # interpolation reaches the centres of the neighbours
    assert rows.tolist() == list(range(max(PATCH * i - reach, 0), min(PATCH * (i + 1) + reach, 20)))
    assert columns.tolist() == list(range(max(PATCH * j - reach, 0), min(PATCH * (j + 1) + reach, 28)))


def test_pixels_that_fill_up_the_last_patch_repeat_the_border() -> None:
    segmenter, x = network(), tiles(14, 15)
    full = F.pad(x, (0, 1, 0, 2), mode="replicate")
    torch.testing.assert_close(segmenter(x), segmenter(full)[..., :14, :15])


def test_positions_at_their_own_size_are_themselves() -> None:
    embedding = network().encoder.pos_embed
    assert resampled_positions(embedding, 4, (4, 4)) is embedding


@given(st.integers(1, 9), st.integers(1, 9))
def test_positions_of_another_grid_lie_between_the_learned_ones(rows: int, columns: int) -> None:
    learned = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))  # the row and the column of each patch
    embedding = torch.cat([torch.tensor([[99.0, 99.0]]), learned])[None]
    found = resampled_positions(embedding, 4, (rows, columns))
    assert found.shape == (1, 1 + rows * columns, 2)
    assert (found[:, 0] == 99).all()
    centres = [((torch.arange(n) + 0.5) * 4 / n - 0.5).clamp(0, 3) for n in (rows, columns)]
    torch.testing.assert_close(found[0, 1:], torch.cartesian_prod(*centres))


# --- the same again -----------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_network_and_the_same_logits() -> None:
    x = tiles(17, 16)
    torch.manual_seed(3)
    first = Segmenter(SMALL)
    torch.manual_seed(3)
    second = Segmenter(SMALL)
    assert torch.equal(first(x), first(x)) and torch.equal(first(x), second(x))
    assert torch.equal(first.train()(x), first.eval()(x))


@pytest.mark.parametrize(("classes", "count"), [(5, 3), (2, 2)])  # two maps of two classes are no other thing
def test_a_tile_does_not_see_the_others_of_its_batch(classes: int, count: int) -> None:
    segmenter, x = network(replace(SMALL, classes=classes)), tiles(count=count)
    together = segmenter(x)
    for k in range(count):
        torch.testing.assert_close(segmenter(x[k : k + 1])[0], together[k], rtol=1e-4, atol=1e-4)


def test_a_network_can_be_built_again_from_its_configuration() -> None:
    segmenter, x = network(), tiles()
    again = Segmenter(segmenter.encoder.config).eval()
    again.load_state_dict(segmenter.state_dict())
    assert torch.equal(again(x), segmenter(x))


def test_half_precision_leaves_the_map_as_it_is() -> None:
    segmenter, x = network(), tiles()
    with torch.inference_mode():
        exact = segmenter(x)
        with torch.autocast("cpu", torch.bfloat16):
            coarse = segmenter(x)
    assert coarse.dtype == torch.float32
    assert (exact.argmax(1) == coarse.argmax(1)).float().mean() > 0.9


# --- going on from a trained transformer --------------------------------------------------------------------------


@settings(max_examples=15)
@given(st.lists(st.booleans(), min_size=6, max_size=6), st.booleans())
def test_the_encoder_of_a_trained_transformer_is_taken_over_with_its_heads(keep: list[bool], pruned: bool) -> None:
    torch.manual_seed(0)
    vit, x = SparseViT(SMALL).eval(), tiles()
    mask = [torch.tensor(keep[:4]), torch.tensor(keep[4:])]
    (vit.prune if pruned else vit.set_head_mask)(mask)
    segmenter = segmenter_on(vit).eval()
    assert torch.equal(segmenter.encoder.tokens(x)[0], vit.tokens(x)[0])
    assert segmenter(x).shape == (2, CLASSES, 16, 16)
    segmenter.encoder.cls_token.data += 1
    assert not torch.equal(segmenter.encoder.cls_token, vit.cls_token)  # its own copy
    assert [g.mode for g in segmenter.encoder.gates()] == [GateMode.OPEN if pruned else GateMode.THRESHOLD] * 2


def test_a_segmenter_without_weight_leaves_the_evidence_as_it_is() -> None:
    torch.manual_seed(0)
    architecture = tiny_architecture()
    assert isinstance(architecture.vit, ViTConfig)
    model, x = LandCoverModel(replace(architecture, segmenter=architecture.vit)).eval(), torch.randn(2, 3, 8, 8)
    assert model.segmenter is not None
    evidence = {"vit": 0.5, "spectral": 0.5}
    torch.testing.assert_close(model(x, evidence | {"segmenter": 0.0}), model(x, evidence))
    alone = model.segmenter(model.normalise(x)).log_softmax(1)
    torch.testing.assert_close(model(x, {"vit": 0.0, "spectral": 0.0, "segmenter": 1.0}), alone)


# --- learning -----------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_losses_step_by_step() -> None:
    found, masks = tagged_tiles(8, CLASSES, side=16)
    x = found.store.batch(torch.arange(8))

    def losses(seed: int) -> list[float]:
        torch.manual_seed(seed)
        segmenter, values = Segmenter(replace(SMALL, channels=CLASSES)), []
        optimiser = torch.optim.AdamW(segmenter.parameters(), lr=5e-3)
        for _ in range(10):
            part = torch.randperm(8)[:4]
            loss = F.cross_entropy(segmenter(x[part]), masks[part], reduction="none")
            optimiser.zero_grad()
            clipped_mean(loss, torch.ones_like(loss, dtype=torch.bool), clipping_rule(CLASSES, 16)).backward()
            optimiser.step()
            values.append(loss.mean().item())
        return values

    first = losses(0)
    assert first == losses(0) and first != losses(1)


@pytest.mark.parametrize("classes", [2, 5])
def test_a_separable_set_is_learned(classes: int) -> None:
    found, masks = tagged_tiles(48, classes, side=16)
    held_out, truth = tagged_tiles(16, classes, side=16, seed=1)
    torch.manual_seed(0)
    segmenter = Segmenter(ViTConfig(classes, classes, 16, 4, 16, (2, 2), 8, 32))
    optimiser = torch.optim.AdamW(segmenter.parameters(), lr=5e-3)
    x = found.store.batch(torch.arange(48))
    for step in range(60):
        part = slice(8 * step % 48, 8 * step % 48 + 8)
        loss = F.cross_entropy(segmenter(x[part]), masks[part])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        best = segmenter.eval()(held_out.store.batch(torch.arange(16))).argmax(1)
    assert (best == truth).float().mean() > 0.9
