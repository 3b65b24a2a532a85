"""Gradient clipping: which pixels teach, on which evidence, in one process and in several."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sparsevit.training import group
from sparsevit.training.clipping import PUBLISHED, ClippingRule, clipped_mean, clipping_rule, clipping_threshold

NEVER_UNSURE = 1e9
"""A start that no loss reaches."""
EXAMPLE = torch.tensor([[[0.1, 0.3, 1, 1], [0.2, 0.6, 1, 1], [0, 0, 0.5, 2], [0, 0, 0.5, 1]]])
SIZES = st.tuples(st.integers(1, 4), st.integers(1, 17), st.integers(1, 17))
PATCHES = st.integers(1, 30)
SEEDS = st.integers(0, 99)


def losses(*shape: int, seed: int = 0) -> Tensor:
    """Losses as cross-entropies are: few of them large."""
    uniform = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    return -uniform.clamp_min(1e-4).log()


def labelled(*shape: int, seed: int = 0, share: float = 0.7) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed + 1000)) < share


def everywhere(loss: Tensor) -> Tensor:
    return torch.ones_like(loss, dtype=torch.bool)


def rule(patch: int = 2, **changes: object) -> ClippingRule:
    return replace(ClippingRule(patch, NEVER_UNSURE), **changes)  # type: ignore[arg-type]


# --- values and gradients -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("published", [False, True])
def test_the_worked_example(published: bool) -> None:
    threshold = clipping_threshold(EXAMPLE, everywhere(EXAMPLE), rule(published=published))
    expected = torch.tensor([[0.575, 0.575, 1, 1], [0.575, 0.575, 1, 1]] * 2)
    torch.testing.assert_close(threshold[0], expected)
    assert (threshold < EXAMPLE).nonzero().tolist() == [[0, 1, 1], [0, 2, 3]]
    mean = clipped_mean(EXAMPLE, everywhere(EXAMPLE), rule(published=published))
    assert mean.item() == pytest.approx(0.5109375)


@given(SIZES, PATCHES, SEEDS, st.booleans())
def test_the_mean_is_that_of_losses_cut_at_the_threshold(
    size: tuple[int, int, int], patch: int, seed: int, per_image: bool
) -> None:
    loss, valid, chosen = losses(*size, seed=seed), labelled(*size, seed=seed), rule(patch, per_image=per_image)
    cut = torch.minimum(loss, clipping_threshold(loss, valid, chosen))
    expected = cut[valid].mean() if valid.any() else torch.tensor(0.0)
    torch.testing.assert_close(clipped_mean(loss, valid, chosen), expected)


@given(SIZES, PATCHES, SEEDS)
def test_the_gradient_is_zero_exactly_above_the_threshold(size: tuple[int, int, int], patch: int, seed: int) -> None:
    logits = torch.randn(size[0], 3, *size[1:], generator=torch.Generator().manual_seed(seed)).requires_grad_(True)
    label, valid = torch.randint(0, 3, size, generator=torch.Generator().manual_seed(seed)), labelled(*size, seed=seed)
    loss = F.cross_entropy(logits, label, reduction="none")
    kept = valid & (loss <= clipping_threshold(loss, valid, rule(patch)))
    (plain,) = torch.autograd.grad(loss[valid].mean() if valid.any() else loss.sum() * 0, logits, retain_graph=True)
    (clipped,) = torch.autograd.grad(clipped_mean(loss, valid, rule(patch)), logits)
    torch.testing.assert_close(clipped, plain * kept[:, None])
    assert torch.equal((clipped != 0).any(1), kept)


def test_a_network_that_knows_too_little_learns_from_all_pixels() -> None:
    loss = losses(2, 8, 8).requires_grad_(True)
    mean = loss.detach().mean().item()
    for start, clips in ((mean * 0.99, False), (mean * 1.01, True)):
        (gradient,) = torch.autograd.grad(clipped_mean(loss, everywhere(loss), rule(start=start)), loss)
        assert bool((gradient == 0).any()) == clips
    unsure = clipped_mean(loss, everywhere(loss), rule(start=0.01))
    torch.testing.assert_close(unsure, loss.mean())
    (gradient,) = torch.autograd.grad(unsure, loss)
    torch.testing.assert_close(gradient, torch.full_like(loss, 1 / loss.numel()))


@pytest.mark.parametrize("per_image", [False, True])
def test_a_mean_that_is_exactly_the_start_is_enough(per_image: bool) -> None:
    loss = torch.tensor([[[1.0, 1.0], [1.0, 3.0]]])
    for start, expected in ((1.5, 1.5), (1.25, torch.inf)):
        chosen = rule(patch=2, start=start, per_image=per_image)
        assert (clipping_threshold(loss, everywhere(loss), chosen) == expected).all()


@given(SIZES, PATCHES, SEEDS)
def test_the_threshold_is_nowhere_below_the_mean_and_has_no_gradient(
    size: tuple[int, int, int], patch: int, seed: int
) -> None:
    loss = losses(*size, seed=seed).requires_grad_(True)
    threshold = clipping_threshold(loss, everywhere(loss), rule(patch))
    assert threshold.shape == (1, *size[1:]) and not threshold.requires_grad
    assert (threshold >= loss.detach().double().mean().float()).all()


@given(SIZES, PATCHES, st.floats(0, 10, width=32), st.booleans())
def test_where_all_losses_are_equal_nothing_is_clipped(
    size: tuple[int, int, int], patch: int, value: float, per_image: bool
) -> None:
    loss = torch.full(size, value).requires_grad_(True)
    clipped_mean(loss, everywhere(loss), rule(patch, per_image=per_image)).backward()
    assert loss.grad is not None and (loss.grad > 0).all()


def test_pixels_at_the_threshold_keep_their_whole_gradient() -> None:
    loss = EXAMPLE.clone().requires_grad_(True)
    clipped_mean(loss, everywhere(loss), rule()).backward()
    assert loss.grad is not None
    assert loss.grad[0, 0, 2].item() == pytest.approx(1 / 16)  # loss and threshold are both 1


# --- patches of any size --------------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 60), SEEDS)
@settings(max_examples=40)
def test_where_the_patch_divides_the_sides_patches_are_cut_as_published(
    batch: int, rows: int, columns: int, patch: int, seed: int
) -> None:
    loss = losses(batch, rows * patch, columns * patch, seed=seed)
    local = loss.double().mean(0).view(rows, patch, columns, patch).mean((1, 3)).maximum(loss.double().mean())
    expected = local.repeat_interleave(patch, 0).repeat_interleave(patch, 1).float()
    torch.testing.assert_close(clipping_threshold(loss, everywhere(loss), rule(patch))[0], expected)


@given(SIZES, PATCHES, st.data())
def test_a_pixel_raises_the_threshold_around_it_and_nowhere_else(
    size: tuple[int, int, int], patch: int, data: st.DataObject
) -> None:
    k, i, j = (data.draw(st.integers(0, n - 1)) for n in size)
    loss = torch.zeros(size)
    loss[k, i, j] = 1
    threshold = clipping_threshold(loss, everywhere(loss), rule(patch))[0]
    raised = threshold > threshold.min()
    if patch >= max(size[1:]):
        assert not raised.any()
    elif raised.any():  # not where the pixel is in every patch
        assert raised[i, j]
        rows, columns = raised.any(1), raised.any(0)
        assert torch.equal(raised, rows[:, None] & columns)
        assert max(rows.sum(), columns.sum()) <= 2 * patch  # its patch, or the two that share its row


@given(SIZES, SEEDS)
def test_one_patch_for_all_is_the_mean_of_all(size: tuple[int, int, int], seed: int) -> None:
    loss, valid = losses(*size, seed=seed), labelled(*size, seed=seed)
    valid[0, 0, 0] = True
    threshold = clipping_threshold(loss, valid, rule(max(size[1:])))
    torch.testing.assert_close(threshold, loss[valid].mean().expand(1, *size[1:]))


# --- pixels without a label -----------------------------------------------------------------------------------------


@given(SIZES, PATCHES, SEEDS, st.booleans())
def test_what_pixels_without_a_label_would_have_said_makes_no_difference(
    size: tuple[int, int, int], patch: int, seed: int, per_image: bool
) -> None:
    loss, valid, chosen = losses(*size, seed=seed), labelled(*size, seed=seed), rule(patch, per_image=per_image)
    for other in (loss * 7, torch.full(size, torch.nan)):
        changed = torch.where(valid, loss, other)
        assert torch.equal(clipping_threshold(loss, valid, chosen), clipping_threshold(changed, valid, chosen))
        assert torch.equal(clipped_mean(loss, valid, chosen), clipped_mean(changed, valid, chosen))


def test_an_image_that_is_half_without_labels_is_judged_as_its_other_half() -> None:
    half = losses(1, 8, 8)
    whole, valid = torch.cat([half, torch.zeros(1, 8, 8)], dim=2), torch.zeros(1, 8, 16, dtype=torch.bool)
    valid[:, :, :8] = True
    expected = clipping_threshold(half, everywhere(half), rule(4))
    torch.testing.assert_close(clipping_threshold(whole, valid, rule(4))[:, :, :8], expected)
    published = clipping_threshold(whole, valid, rule(4, published=True))[:, :, :8]
    assert (published <= expected).all() and (half > published).sum() > (half > expected).sum()  # it clips too much


def test_the_published_mean_counts_pixels_without_a_label() -> None:
    valid = everywhere(EXAMPLE)
    valid[:, :, 2:] = False
    expected = torch.minimum(EXAMPLE[..., :2], torch.tensor(0.3)).sum() / 16  # of the four patches one is not zero
    torch.testing.assert_close(clipped_mean(EXAMPLE, valid, rule(published=True)), expected)


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("per_image", [False, True])
def test_a_batch_without_any_label_costs_nothing(published: bool, per_image: bool) -> None:
    loss = losses(2, 5, 5)
    loss[0, 0] = torch.nan
    loss.requires_grad_(True)
    chosen = rule(published=published, per_image=per_image)
    mean = clipped_mean(loss, torch.zeros_like(loss, dtype=torch.bool), chosen)
    mean.backward()
    assert mean.item() == 0 and loss.grad is not None and (loss.grad == 0).all()


def test_valid_pixels_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        clipped_mean(losses(2, 4, 4), torch.ones(2, 1, 4, 4, dtype=torch.bool), rule())


# --- batches ------------------------------------------------------------------------------------------------------


@given(SEEDS, st.permutations(range(4)))
def test_the_order_of_the_images_does_not_matter(seed: int, order: list[int]) -> None:
    loss, valid = losses(4, 9, 7, seed=seed), labelled(4, 9, 7, seed=seed)
    threshold = clipping_threshold(loss, valid, rule(3))
    torch.testing.assert_close(clipping_threshold(loss[order], valid[order], rule(3)), threshold)


@given(SEEDS)
def test_with_means_of_its_own_an_image_does_not_see_the_others(seed: int) -> None:
    loss, valid = losses(4, 9, 7, seed=seed), labelled(4, 9, 7, seed=seed)
    loss[0] *= 20  # one that is above the start
    chosen = rule(3, per_image=True, start=3.0)
    together = clipping_threshold(loss, valid, chosen)
    for k in range(4):
        assert torch.equal(together[k], clipping_threshold(loss[k : k + 1], valid[k : k + 1], chosen)[0])
    assert together[0].isinf().all() and together[1:].isfinite().all()


def test_weights_of_pixels_count_in_the_mean_and_not_in_the_threshold() -> None:
    weight = torch.rand(EXAMPLE.shape, generator=torch.Generator().manual_seed(0))
    valid = labelled(*EXAMPLE.shape)
    cut = torch.minimum(EXAMPLE, clipping_threshold(EXAMPLE, valid, rule()))
    expected = (cut * weight)[valid].sum() / weight[valid].sum()
    torch.testing.assert_close(clipped_mean(EXAMPLE, valid, rule(), weight), expected)


# --- the rules themselves -----------------------------------------------------------------------------------------


def test_the_published_rule_is_that_of_21_classes_and_480_pixels() -> None:
    general = clipping_rule(21, 480)
    assert general.patch == PUBLISHED.patch == 120
    assert general.start == pytest.approx(PUBLISHED.start, abs=0.02)


@given(st.integers(2, 91), st.integers(1, 600))
def test_the_start_is_a_share_of_the_loss_of_a_guess(classes: int, side: int) -> None:
    chosen = clipping_rule(classes, side)
    guess = F.cross_entropy(torch.zeros(1, classes), torch.zeros(1, dtype=torch.long)).item()
    assert chosen.start == pytest.approx(0.4 * guess, rel=1e-5)
    assert math.ceil(side / chosen.patch) <= 4


def test_a_rule_with_means_of_each_image_is_otherwise_the_same() -> None:
    assert clipping_rule(8, 64, per_image=True) == replace(clipping_rule(8, 64), per_image=True)


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_image", [False, True])
def test_wrong_labels_are_clipped_more_often_than_right_ones(per_image: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 3, (24, 2, 2), generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
    x = F.one_hot(truth, 3).permute(0, 3, 1, 2) + 0.1 * torch.randn(24, 3, 16, 16, generator=generator)
    wrong = (torch.rand(24, 8, 8, generator=generator) < 0.2).repeat_interleave(2, 1).repeat_interleave(2, 2)
    labels = torch.where(wrong, (truth + 1) % 3, truth)
    torch.manual_seed(0)
    network = nn.Conv2d(3, 3, 1)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.1)
    # A network that fits a fifth of wrong labels as noise stays at 0.5 nats, above 0.4 ln 3.
    chosen = replace(clipping_rule(3, 16, per_image), start=0.8)
    for _ in range(60):
        loss = F.cross_entropy(network(x), labels, reduction="none")
        optimiser.zero_grad()
        clipped_mean(loss, everywhere(loss), chosen).backward()
        optimiser.step()
    clipped = loss > clipping_threshold(loss, everywhere(loss), chosen)
    assert clipped[wrong].float().mean() > 0.7 > 0.2 > clipped[~wrong].float().mean()
    assert wrong[clipped].float().mean() > 2 * wrong.float().mean()


BATCH = 5
CASES = [rule(4), rule(4, per_image=True), rule(4, start=0.01)]


def case() -> tuple[Tensor, Tensor]:
    """Losses and labels of a batch of which processes get unequal shares, with unequal numbers of labels."""
    loss, valid = losses(BATCH, 10, 9), labelled(BATCH, 10, 9)
    valid[0, :5] = False
    return loss, valid


def answers(positions: Tensor) -> dict[str, Tensor]:
    """Thresholds and gradients of each rule for a process's share of the batch."""
    loss, valid = (t[positions] for t in case())
    found = {}
    for k, chosen in enumerate(CASES):
        variable = loss.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(clipped_mean(variable, valid, chosen), variable)
        found[f"threshold{k}"] = clipping_threshold(loss, valid, chosen).contiguous()
        found[f"gradient{k}"] = gradient.contiguous()
    return found


def member(rank: int, folder: Path) -> None:
    """What each of two processes does."""
    meeting = (folder / "meet").as_uri()
    dist.init_process_group("gloo", init_method=meeting, timeout=timedelta(seconds=60), world_size=2, rank=rank)
    try:
        assert group.mean(torch.tensor([1.0, rank])).tolist() == [1, 0.5]
        save_file(answers(group.share_of(torch.arange(BATCH))), folder / f"{rank}.safetensors")
    finally:
        dist.destroy_process_group()


def _second(_: int, folder: Path) -> None:
    torch.set_num_threads(1)
    member(1, folder)


def test_two_processes_judge_and_learn_as_one(tmp_path: Path) -> None:
    second = torch.multiprocessing.spawn(_second, (tmp_path,), 1, join=False)
    member(0, tmp_path)
    assert second.join()
    alone = answers(torch.arange(BATCH))
    for rank in range(2):
        found = load_file(tmp_path / f"{rank}.safetensors")
        for name, value in alone.items():
            mine = value if len(value) == 1 else value[rank::2]
            if name.startswith("gradient"):
                mine = 2 * mine  # the mean over the two processes is what a step is made of
            torch.testing.assert_close(found[name], mine)


@pytest.mark.parametrize("chosen", CASES)
def test_four_processes_have_the_thresholds_of_one(chosen: ClippingRule, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, valid = case()
    alone = clipping_threshold(loss, valid, chosen)
    said: list[Tensor] = []

    def listen(values: Tensor) -> Tensor:
        said.append(values)
        return values

    def answer(_: Tensor) -> Tensor:
        return torch.stack(said).mean(0)

    for step in (listen, answer):  # every process asks, and then all of them get the mean
        monkeypatch.setattr(group, "mean", step)
        found = [clipping_threshold(loss[k::4], valid[k::4], chosen) for k in range(4)]
    for k in range(4):
        torch.testing.assert_close(found[k], alone if len(alone) == 1 else alone[k::4])


def test_the_published_rule_asks_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, valid = case()
    chosen = rule(4, published=True)
    alone = clipped_mean(loss, valid, chosen)

    def refuse(_: Tensor) -> Tensor:
        raise AssertionError

    monkeypatch.setattr(group, "mean", refuse)
    assert torch.equal(clipped_mean(loss, valid, chosen), alone)
    with pytest.raises(AssertionError):
        clipped_mean(loss, valid, rule(4))


def test_without_a_group_the_mean_is_the_tensor_itself() -> None:
    values = torch.rand(3)
    assert group.mean(values) is values
