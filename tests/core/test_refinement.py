"""Refinement: rounds that may only help, tied to the tags."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from small_models import Diary, tagged_tiles, tiny_architecture
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sparsevit.errors import InputError
from sparsevit.geodata.tile_masks import UNLABELLED
from sparsevit.models.hardware import HardwareSettings
from sparsevit.models.landcover import LandCoverModel
from sparsevit.models.model_file import ModelCard, load_model, save_model
from sparsevit.models.unet import RefinementUNet
from sparsevit.reporting import Reporter
from sparsevit.training.clipping import clipping_rule
from sparsevit.training.loop import Phase, TrainingSettings, fit, make_fabric, parameter_groups
from sparsevit.training.losses import fraction_loss, tag_loss, tag_probability
from sparsevit.training.mask_loss import MaskLoss, mask_balance
from sparsevit.training.refinement import (
    BLENDS,
    Refinement,
    RefinementSettings,
    as_good,
    guarded,
    joined,
    refine,
    restricted_masks,
    tile_losses,
    train_decoder,
)
from sparsevit.training.tiles import TileStore

TILES, MASKS = tagged_tiles(48, side=32)
HELD_OUT, HELD_OUT_MASKS = tagged_tiles(16, side=32, seed=1)
TRAINING = TrainingSettings(batch=8, learning_rate=3e-3)
EVIDENCE = {"spectral": 1.0}


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return make_fabric(HardwareSettings(device="cpu", precision="32-true"))


@pytest.fixture(scope="module")
def classifier(fabric: Fabric) -> LandCoverModel:
    """A spectral network that has begun to learn the toy's classes from tags: a third of the pixels is wrong."""
    torch.manual_seed(0)
    model = LandCoverModel(replace(tiny_architecture(side=32), vit=None, weights=EVIDENCE))
    network = model.spectral
    assert network is not None

    def loss(p: torch.Tensor) -> torch.Tensor:
        x = TILES.store.batch(p)
        return fraction_loss(network(x), torch.ones(len(p), 32, 32), TILES.tags[p], 0.1)

    phase = Phase("spectral", network, loss, len(TILES), 4, learning_rate=1e-2)
    fit(phase, TRAINING, fabric, Reporter())
    return model.eval()


def right(model: LandCoverModel) -> float:
    """Share of the pixels of held-out tiles that a model gets right."""
    with torch.inference_mode():
        best = model(HELD_OUT.store.batch(torch.arange(len(HELD_OUT)))).argmax(1)
    return float((best == HELD_OUT_MASKS).float().mean())


def refined(
    classifier: LandCoverModel, fabric: Fabric, masks: torch.Tensor, reporter: Reporter | None = None, **changes: object
) -> Refinement:
    chosen = RefinementSettings(**({"rounds": 1, "refine_epochs": 6, "ema_decay": 0.8} | changes))  # type: ignore[arg-type]
    return refine(classifier, EVIDENCE, chosen, TILES, masks, HELD_OUT, TRAINING, fabric, reporter or Reporter())


@pytest.fixture(scope="module")
def perfect(classifier: LandCoverModel, fabric: Fabric) -> Refinement:
    return refined(classifier, fabric, MASKS, refine_epochs=12)


def test_perfect_masks_of_a_separable_set_make_a_poor_classifier_good(
    classifier: LandCoverModel, perfect: Refinement
) -> None:
    assert perfect.refined_weight > 0
    assert right(perfect.model) > 0.95 > 0.75 > right(classifier)


def test_a_fifth_of_wrong_labels_does_not_come_through(classifier: LandCoverModel, fabric: Fabric) -> None:
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(MASKS.shape, generator=generator) < 0.2
    noisy = torch.where(wrong, torch.randint(0, 3, MASKS.shape, generator=generator), MASKS)
    assert (noisy != MASKS).float().mean() > 0.1
    result = refined(classifier, fabric, noisy)
    assert result.refined_weight > 0 and right(result.model) > right(classifier)
    assert 1 - right(result.model) < float((noisy != MASKS).float().mean())


def test_an_accepted_round_explains_the_held_out_tags_at_least_as_well(perfect: Refinement) -> None:
    assert all(done.tag_loss <= perfect.evidence_tag_loss for done in perfect.rounds if done.accepted)
    assert perfect.tag_loss <= perfect.evidence_tag_loss
    assert perfect.refined_weight in (0, *BLENDS)


def test_the_reported_loss_is_that_of_the_model(perfect: Refinement, fabric: Fabric) -> None:
    assert float(tile_losses(perfect.model, HELD_OUT, fabric).mean()) == pytest.approx(perfect.tag_loss, abs=1e-5)


def test_losses_of_tiles_have_the_mean_of_all_known_tags(classifier: LandCoverModel, fabric: Fabric) -> None:
    tags = HELD_OUT.tags.clone()
    tags[:5, 0] = tags[7] = -1
    losses = tile_losses(classifier, replace(HELD_OUT, tags=tags), fabric, batch=5)
    with torch.inference_mode():
        p = classifier(HELD_OUT.store.batch(torch.arange(16))).exp().mean((2, 3))
    expected = tag_loss(tag_probability(p, HELD_OUT.presence_threshold), tags)
    assert losses.shape == (16,) and losses[7] == 0
    torch.testing.assert_close(losses.mean(), expected)


# --- the guard --------------------------------------------------------------------------------------------------------


def losses(mean: float, wobble: float = 0.0) -> torch.Tensor:
    """Losses of 50 tiles; half of them `wobble` above the mean, half below."""
    return mean + wobble * torch.tensor([1.0, -1.0]).repeat(25)


EVEN = losses(1.0)


def test_as_good_is_up_to_one_standard_error_of_the_difference() -> None:
    assert as_good(losses(1.02, 0.3), EVEN)  # the error is 0.3 / √49 = 0.043
    assert not as_good(losses(1.05, 0.3), EVEN)
    assert as_good(losses(1.05, 0.3), losses(1.04, 0.3) + losses(0, 0.2))
    assert as_good(EVEN, EVEN) and not as_good(losses(1.001), EVEN)  # no spread, no excuse
    assert not as_good(torch.tensor([1.1]), torch.tensor([1.0]))


def test_the_first_blend_within_one_standard_error_of_the_best_is_taken() -> None:
    tried = [losses(0.93), losses(0.91, 0.3), losses(0.9)]
    assert guarded(tried, EVEN, EVEN) == (1, True)
    assert guarded([losses(0.9), losses(0.9)], EVEN, EVEN) == (0, True)


def test_a_blend_that_is_worse_than_the_evidence_is_refused_whatever_the_spread() -> None:
    assert guarded([losses(1.01, 2.0), losses(1.02, 2.0)], EVEN, EVEN) == (0, False)
    assert guarded([losses(1.01, 2.0), losses(1.0, 2.0)], EVEN, EVEN) == (1, True)


def test_a_round_may_be_worse_than_the_one_before_by_less_than_the_tiles_can_tell() -> None:
    assert guarded([losses(0.51, 0.3)], EVEN, losses(0.5)) == (0, True)
    assert guarded([losses(0.6, 0.3)], EVEN, losses(0.5)) == (0, False)


def test_a_round_that_is_worse_is_refused_and_the_model_equals_the_evidence(
    classifier: LandCoverModel, fabric: Fabric
) -> None:
    sure = copy.deepcopy(classifier)
    assert sure.spectral is not None
    first, (_, second, _, last) = sure.spectral.neighbourhood, sure.spectral.layers
    nn.init.zeros_(first.weight)  # the toy's bands are its classes: read them off
    for k in range(3):
        first.weight.data[k, k, 1, 1] = 3
    second.weight.data = torch.eye(8)[:, :, None, None]
    last.weight.data = 2 * torch.eye(3, 8)[:, :, None, None]
    for layer in (first, second, last):
        nn.init.zeros_(layer.bias)
    turned = (MASKS + 1) % 3  # every pixel wrong
    result = refined(sure, fabric, turned, fraction_weight=0.0, refine_epochs=2)
    assert [r.accepted for r in result.rounds] == [False]
    assert result.refined_weight == 0 and result.tag_loss == result.evidence_tag_loss
    x = HELD_OUT.store.batch(torch.arange(4))
    assert torch.equal(result.model(x), sure(x, EVIDENCE))


def test_masks_that_do_not_change_end_the_rounds(classifier: LandCoverModel, fabric: Fabric) -> None:
    result = refined(classifier, fabric, MASKS, rounds=4, refine_epochs=2, stop_change=0.99)
    assert [r.accepted for r in result.rounds] == [True] and result.refined_weight > 0


def test_the_classifier_itself_is_not_changed(classifier: LandCoverModel, fabric: Fabric) -> None:
    before = copy.deepcopy(classifier.state_dict())
    refined(classifier, fabric, MASKS, refine_epochs=1)
    assert all(torch.equal(v, before[k]) for k, v in classifier.state_dict().items())
    assert dict(classifier.architecture.weights) == EVIDENCE and classifier.unet is None


@given(st.floats(0, 1), st.floats(0, 1))
def test_joined_weights_sum_to_one(weight: float, share: float) -> None:
    model = LandCoverModel(tiny_architecture())
    weights = joined(model, RefinementSettings(), {"vit": share, "spectral": 1 - share}, weight).architecture.weights
    assert sum(weights.values()) == pytest.approx(1) and weights["unet"] == weight
    assert "unet" not in model.architecture.weights


def test_what_ignored_pixels_would_have_said_makes_no_difference(classifier: LandCoverModel, fabric: Fabric) -> None:
    """All pixels ignored trains as no masks do at all: from the tags alone."""
    chosen = RefinementSettings(refine_epochs=1, fraction_weight=1.0)
    ignored = torch.full_like(MASKS, UNLABELLED)
    nets = [train_decoder(classifier, chosen, TILES, m, TRAINING, fabric, 1, Reporter()) for m in (ignored, None)]
    first, second = (n.state_dict() for n in nets)
    assert all(torch.equal(first[k], second[k]) for k in first)


@settings(max_examples=20)
@given(st.floats(0, 0.99), st.integers(0, 99))
def test_new_masks_hold_only_classes_that_the_tags_do_not_exclude(
    classifier: LandCoverModel, fabric: Fabric, confidence: float, seed: int
) -> None:
    tags = torch.randint(-1, 2, TILES.tags.shape, generator=torch.Generator().manual_seed(seed)).to(torch.int8)
    masks = restricted_masks(classifier, replace(TILES, tags=tags), confidence, fabric)
    for mask, tag in zip(masks, tags, strict=True):
        possible = set((tag != 0).nonzero().flatten().tolist()) or {0, 1, 2}
        assert set(mask.unique().tolist()) <= possible | {UNLABELLED}


def test_unsure_pixels_and_nodata_of_new_masks_are_ignored(classifier: LandCoverModel, fabric: Fabric) -> None:
    tiles, _ = tagged_tiles(4, side=32)
    tiles.store.values[:, :, :3] = torch.nan
    low, high = (restricted_masks(classifier, tiles, c, fabric) for c in (0.0, 0.95))
    assert (low[:, :3] == UNLABELLED).all() and (low[:, 3:] != UNLABELLED).all()
    assert ((high == UNLABELLED) | (high == low)).all() and (high == UNLABELLED).sum() >= (low == UNLABELLED).sum()


@given(st.floats(0, 0.99), st.integers(1, 20))
def test_the_average_of_the_teacher_is_the_closed_form(decay: float, steps: int) -> None:
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(0)
    teacher = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))
    teacher.update_parameters(network)  # the first update copies
    network.weight.data.fill_(1)
    for _ in range(steps):
        teacher.update_parameters(network)
    assert teacher.module.weight.item() == pytest.approx(1 - decay**steps, abs=1e-5)


def test_a_batch_of_one_small_tile_can_be_learned_from(fabric: Fabric) -> None:
    tiles, masks = tagged_tiles(
        9, side=16
    )  # with 16 pixels and 9 tiles in batches of 8, the last feature map is one pixel
    model = LandCoverModel(replace(tiny_architecture(side=16), vit=None, weights=EVIDENCE))
    chosen = RefinementSettings(rounds=1, refine_epochs=1)
    result = refine(model, EVIDENCE, chosen, tiles, masks, None, TRAINING, fabric, Diary())
    assert len(result.rounds) == 1


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 40))
def test_a_unet_maps_tiles_of_any_size(height: int, width: int) -> None:
    network = RefinementUNet("resnet18", 2, 3).eval()
    logits = network(torch.randn(2, 2, height, width))
    assert logits.shape == (2, 3, height, width) and logits.isfinite().all()


# --- the network of one round -----------------------------------------------------------------------------------------


def flat(groups: list[dict[str, Any]]) -> torch.Tensor:
    """All weights of optimiser groups, one after another."""
    return torch.cat([p.detach().flatten() for g in groups for p in g["params"]])


def test_the_segmentation_network_alone_learns_the_masks(classifier: LandCoverModel, fabric: Fabric) -> None:
    chosen = RefinementSettings(refine_epochs=2, ema_decay=0.8)
    network = train_decoder(classifier, chosen, TILES, MASKS, TRAINING, fabric, 1, Reporter())
    alone = copy.copy(classifier)
    alone.unet = network
    assert right(joined(alone, chosen, EVIDENCE, 1.0)) > 0.85


@pytest.mark.parametrize("decay", [0.0, 0.8])
def test_what_a_round_gives_is_the_average_of_its_steps(
    classifier: LandCoverModel, fabric: Fabric, decay: float
) -> None:
    tiles, masks = tagged_tiles(12, side=32)
    chosen, training = RefinementSettings(refine_epochs=1, ema_decay=decay), replace(TRAINING, batch=4)
    steps: list[torch.Tensor] = []
    hook = register_optimizer_step_post_hook(lambda optimiser, *_: steps.append(flat(optimiser.param_groups)))
    network = train_decoder(classifier, chosen, tiles, masks, training, fabric, 1, Reporter())
    hook.remove()
    first, second, last = steps
    average = decay**2 * first + decay * (1 - decay) * second + (1 - decay) * last
    torch.testing.assert_close(flat(parameter_groups(network, 0.0)), average)
    assert torch.allclose(average, last) == (decay == 0)


def test_a_tile_and_its_mask_are_turned_together(fabric: Fabric) -> None:
    """Half of each tile is of one class, half of the other: masks turned apart leave the network in doubt."""
    tiles, masks = tagged_tiles(64, classes=2, side=32)
    both = (tiles.tags == 1).all(1)
    store = TileStore((int(both.sum()), 2, 32, 32))
    store.values[:] = tiles.store.values[both.numpy()]
    torch.manual_seed(0)
    model = LandCoverModel(tiny_architecture(2, 2, 32))
    chosen = RefinementSettings(decoder="segmenter", refine_epochs=12, ema_decay=0.5, fraction_weight=0.0)
    known = replace(tiles, store=store, tags=tiles.tags[both])
    network = train_decoder(model, chosen, known, masks[both], TRAINING, fabric, 1, Reporter())
    with torch.inference_mode():
        p = network(model.normalise(torch.from_numpy(store.values[:]))).softmax(1)
    assert p.gather(1, masks[both][:, None]).mean() > 0.7


# --- the loss on masks, and the other network -------------------------------------------------------------------------


def mask_loss(fabric: Fabric, clip: bool = False, label_smoothing: float = 0.0) -> MaskLoss:
    rule = clipping_rule(3, 32) if clip else None
    smoothing = label_smoothing
    return MaskLoss(MASKS, 3, presence_threshold=0.1, label_smoothing=smoothing, rule=rule, device=fabric.device)


UNKNOWN = torch.full((4, 3), -1)
"""Tags of four tiles that exclude nothing."""


def test_without_clipping_it_is_the_weighted_cross_entropy(fabric: Fabric) -> None:
    logits, target = torch.randn(2, 3, 32, 32), MASKS[:2].clone()
    target[:, :5] = UNLABELLED
    expected = F.cross_entropy(logits, target, mask_balance(MASKS, 3), ignore_index=UNLABELLED)
    torch.testing.assert_close(mask_loss(fabric)(logits, target, UNKNOWN[:2]), expected)
    unlabelled = torch.full_like(target, UNLABELLED)
    for clip in (False, True):
        nothing = logits.clone().requires_grad_()
        loss = mask_loss(fabric, clip=clip)(nothing, unlabelled, UNKNOWN[:2])
        loss.backward()
        assert loss == 0 and nothing.grad is not None and (nothing.grad == 0).all()


def test_smoothing_and_clipping_are_those_of_the_settings(classifier: LandCoverModel, fabric: Fabric) -> None:
    """From a network that has learned the masks: labels that became wrong since teach less where they are clipped."""

    def trained(masks: torch.Tensor, start: nn.Module | None = None, **changes: Any) -> nn.Module:
        chosen = RefinementSettings(**{"refine_epochs": 8, "ema_decay": 0.5, "fraction_weight": 0.0} | changes)
        return train_decoder(classifier, chosen, TILES, masks, TRAINING, fabric, 1, Reporter(), start)

    def follows(network: nn.Module) -> float:
        with torch.inference_mode():
            p = network(classifier.normalise(TILES.store.batch(torch.arange(48)))).softmax(1)
        return float(p.gather(1, wrong[:, None])[changed[:, None]].mean())

    changed = (torch.rand(MASKS.shape, generator=torch.manual_seed(0)) < 0.1) & (MASKS != UNLABELLED)
    wrong = torch.where(changed, (MASKS + 1) % 3, MASKS).clamp_min(0).long()
    start = trained(MASKS, label_smoothing=0.0)
    plain, clipped, smoothed = (
        follows(trained(torch.where(changed, wrong, MASKS), start, **changes))
        for changes in ({"label_smoothing": 0.0}, {"label_smoothing": 0.0, "clip": True}, {"label_smoothing": 0.5})
    )
    assert 2 * clipped < plain and 1.5 * plain < smoothed


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ignored_pixels_have_no_gradient(fabric: Fabric, clip: bool, smoothing: float) -> None:
    logits, target = torch.randn(2, 3, 32, 32, requires_grad=True), MASKS[:2].clone()
    target[:, :5] = UNLABELLED
    mask_loss(fabric, clip=clip, label_smoothing=smoothing)(logits, target, UNKNOWN[:2]).backward()
    assert logits.grad is not None
    assert (logits.grad[:, :, :5] == 0).all() and (logits.grad[:, :, 5:] != 0).any()


@pytest.mark.parametrize("clip", [False, True])
def test_the_tags_of_a_tile_are_a_prior(fabric: Fabric, clip: bool) -> None:
    """In the loss the odds of an excluded class are a tenth, the presence threshold, of what the logits say."""
    logits = torch.randn(2, 3, 32, 32)
    target = torch.randint(0, 2, (2, 32, 32), generator=torch.Generator().manual_seed(0))
    loss, excluded = mask_loss(fabric, clip=clip), torch.tensor([[1, 1, 0], [-1, 1, 0]])
    lowered = logits + torch.tensor([0.0, 0.0, math.log(0.1)])[:, None, None]
    torch.testing.assert_close(loss(logits, target, excluded), loss(lowered, target, UNKNOWN[:2]))


def test_a_mask_says_less_against_an_excluded_class_than_against_a_present_one(fabric: Fabric) -> None:
    target = torch.zeros(1, 32, 32, dtype=torch.long)
    pushes = []
    for tags in ([1, 1, 1], [1, 1, 0]):
        logits = torch.zeros(1, 3, 32, 32, requires_grad=True)
        mask_loss(fabric)(logits, target, torch.tensor([tags])).backward()
        assert logits.grad is not None
        pushes.append(float(logits.grad[:, 2].sum()))
    assert pushes[0] == pytest.approx(1 / 3) and pushes[1] == pytest.approx(0.1 / 2.1)


def test_labels_that_the_tags_exclude_teach_nothing(fabric: Fabric) -> None:
    logits = torch.randn(1, 3, 32, 32, requires_grad=True)
    loss = mask_loss(fabric)(logits, torch.full((1, 32, 32), 2), torch.tensor([[1, 1, 0]]))
    loss.backward()
    assert loss == 0 and logits.grad is not None and (logits.grad == 0).all()


def test_clipping_takes_the_gradient_from_improbable_labels_alone(fabric: Fabric) -> None:
    target = MASKS[:4]
    wrong = torch.zeros(target.shape, dtype=torch.bool)
    wrong[:, 3::9, 4::7] = True
    logits = (4.0 * F.one_hot(target, 3).permute(0, 3, 1, 2)).requires_grad_()  # sure of the true classes
    noisy = torch.where(wrong, (target + 1) % 3, target)
    mask_loss(fabric, clip=True)(logits, noisy, UNKNOWN).backward()
    assert logits.grad is not None
    steep = logits.grad.abs().sum(1) > 0
    assert torch.equal(steep, ~wrong)


def test_clipping_waits_until_the_network_knows_enough(fabric: Fabric) -> None:
    logits = torch.zeros(2, 3, 32, 32).requires_grad_()  # a guess: the mean loss is ln 3, above the start
    mask_loss(fabric, clip=True)(logits, MASKS[:2], UNKNOWN[:2]).backward()
    assert logits.grad is not None and (logits.grad.abs().sum(1) > 0).all()


@pytest.fixture(scope="module")
def with_transformer(fabric: Fabric) -> LandCoverModel:
    torch.manual_seed(0)
    return LandCoverModel(replace(tiny_architecture(side=32), weights=EVIDENCE)).eval()


def test_a_segmenter_goes_on_from_the_transformer_and_is_part_of_the_model(
    with_transformer: LandCoverModel, fabric: Fabric, tmp_path: Path
) -> None:
    changes = {"decoder": "segmenter", "refine_epochs": 8, "clip": True}
    result = refined(with_transformer, fabric, MASKS, **changes)
    weights = result.model.architecture.weights
    assert result.refined_weight == weights["segmenter"] > 0 and "unet" not in weights
    assert result.model.unet is None and right(result.model) > right(with_transformer)
    card = ModelCard("landcover", result.model.architecture, ["a", "b", "c"], 10.0, "", 0.1, [[True] * 2] * 2, "none")
    save_model(tmp_path / "m.safetensors", result.model, card)
    again, _ = load_model(tmp_path / "m.safetensors")
    x = HELD_OUT.store.batch(torch.arange(3))
    torch.testing.assert_close(again(x), result.model(x))


def test_rounds_of_a_segmenter_go_on_from_their_own_weights(with_transformer: LandCoverModel, fabric: Fabric) -> None:
    diary = Diary()
    changes = {"decoder": "segmenter", "refine_epochs": 4, "rounds": 2, "stop_change": 0.0}
    result = refined(with_transformer, fabric, MASKS, diary, **changes)
    assert len(diary.metrics["round_1_loss"]) == 4
    if len(result.rounds) == 2:
        assert len(diary.metrics["round_2_loss"]) == 2


def test_a_segmenter_needs_a_transformer(classifier: LandCoverModel, fabric: Fabric) -> None:
    with pytest.raises(InputError, match="transformer"):
        refined(classifier, fabric, MASKS, decoder="segmenter", refine_epochs=1)
