"""Hard Concrete gates: the distribution, what training draws, what inference decides."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsevit.models.gates import GateMode, HardConcrete, HeadGates
from sparsevit.training.loop import parameter_groups

GATE = HardConcrete()
CUT = 2.3979  # where the soft gate of evaluation clips: ln 11

# log_alpha, P(z > 0), P(z > 0.5), P(z = 1), E[z], soft gate of evaluation; calculated for β = 0.33, γ = -0.1, ζ = 1.1
TABLE = [
    (-3.0, 0.0990, 0.0474, 0.0221, 0.0505, 0.0),
    (-2.0, 0.2299, 0.1192, 0.0578, 0.1252, 0.0430),
    (-1.0, 0.4480, 0.2689, 0.1429, 0.2753, 0.2227),
    (-0.5, 0.5723, 0.3775, 0.2156, 0.3815, 0.3530),
    (0.0, 0.6881, 0.5000, 0.3119, 0.4999, 0.5000),
    (0.5, 0.7844, 0.6225, 0.4277, 0.6183, 0.6470),
    (1.0, 0.8571, 0.7311, 0.5520, 0.7247, 0.7773),
    (2.0, 0.9422, 0.8808, 0.7701, 0.8749, 0.9570),
    (3.0, 0.9779, 0.9526, 0.9010, 0.9494, 1.0),
]
SCORES = st.floats(-8, 8, allow_nan=False, width=32)


@pytest.mark.parametrize("row", TABLE, ids=lambda r: f"{r[0]:g}")
def test_closed_forms_equal_the_published_numbers(row: tuple[float, ...]) -> None:
    a, nonzero, opened, one, _, soft = row
    score = torch.tensor(a)
    values = [f(score).item() for f in (GATE.p_nonzero, GATE.p_open, GATE.p_one, GATE.mean_gate)]
    assert values == pytest.approx([nonzero, opened, one, soft], abs=6e-5)


@pytest.mark.parametrize("row", TABLE, ids=lambda r: f"{r[0]:g}")
def test_closed_forms_equal_draws(row: tuple[float, ...]) -> None:
    count = 400_000
    score = torch.tensor(row[0])
    z = GATE.sample(score, torch.rand(count, generator=torch.Generator().manual_seed(7)))
    for drawn, expected in (
        ((z > 0).float(), GATE.p_nonzero(score).item()),
        ((z > 0.5).float(), GATE.p_open(score).item()),
        ((z == 1).float(), GATE.p_one(score).item()),
        (z, row[4]),
    ):
        assert abs(drawn.mean().item() - expected) < 4 * drawn.std().item() / math.sqrt(count) + 2e-4


@given(SCORES)
def test_zero_and_one_are_mirror_images(a: float) -> None:
    left, right = torch.tensor(a, dtype=torch.float64), torch.tensor(-a, dtype=torch.float64)
    assert GATE.p_one(left).item() == pytest.approx(1 - GATE.p_nonzero(right).item(), abs=1e-9)
    assert GATE.p_open(left).item() == pytest.approx(1 - GATE.p_open(right).item(), abs=1e-9)


@given(SCORES)
def test_probabilities_of_zero_between_and_one_sum_to_one(a: float) -> None:
    score = torch.tensor(a)
    zero, one = 1 - GATE.p_nonzero(score), GATE.p_one(score)
    between = GATE.p_nonzero(score) - one
    assert between >= -1e-6
    assert (zero + between + one).item() == pytest.approx(1, abs=1e-6)


@given(SCORES, st.floats(0.01, 3))
def test_a_higher_score_is_more_likely_open(a: float, more: float) -> None:
    low, high = torch.tensor(a, dtype=torch.float64), torch.tensor(a + more, dtype=torch.float64)
    for probability in (GATE.p_nonzero, GATE.p_open, GATE.p_one):
        assert probability(high) > probability(low)


@given(SCORES)
def test_gradient_of_the_penalty_is_p_times_1_minus_p(a: float) -> None:
    score = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    p = GATE.p_open(score)
    p.backward()
    assert score.grad is not None
    assert score.grad.item() == pytest.approx((p * (1 - p)).item(), rel=1e-9)


@given(SCORES, st.floats(0, 1))
def test_a_draw_is_a_number_between_0_and_1_at_any_noise(a: float, noise: float) -> None:
    z = GATE.sample(torch.tensor(a), torch.tensor(noise))
    assert 0 <= z <= 1


@given(SCORES)
def test_soft_evaluation_clips_at_ln_11(a: float) -> None:
    z = GATE.mean_gate(torch.tensor(a, dtype=torch.float64)).item()
    assert (z == 0) == (a <= -CUT) or abs(a + CUT) < 1e-4
    assert (z == 1) == (a >= CUT) or abs(a - CUT) < 1e-4


@given(st.lists(SCORES, min_size=1, max_size=16))
def test_at_inference_a_head_is_on_iff_its_score_is_positive(scores: list[float]) -> None:
    gates = HeadGates(len(scores))
    gates.mode = GateMode.THRESHOLD
    with torch.no_grad():
        gates.log_alpha.copy_(torch.tensor(scores))
    for training in (True, False):
        assert gates.train(training)().tolist() == [float(s > 0) for s in scores]


def test_inference_does_not_depend_on_the_random_state() -> None:
    gates = HeadGates(64, init=0.1).eval()
    gates.mode = GateMode.SAMPLE
    torch.manual_seed(1)
    first = gates()
    assert torch.equal(gates(), first)
    torch.manual_seed(2)
    assert torch.equal(gates(), first)


def test_training_draws_are_reproducible_and_differ_from_step_to_step() -> None:
    gates = HeadGates(64, init=0.0).train()
    gates.mode = GateMode.SAMPLE
    torch.manual_seed(3)
    first, second = gates(), gates()
    torch.manual_seed(3)
    assert torch.equal(gates(), first)
    assert not torch.equal(first, second)


def test_open_gates_are_as_if_they_were_not_there() -> None:
    assert HeadGates(4)() is None


def test_straight_through_is_binary_forward_and_soft_backward() -> None:
    gates = HeadGates(2000, init=0.0).train()
    gates.mode = GateMode.SAMPLE
    torch.manual_seed(5)
    out = gates()
    torch.manual_seed(5)
    score = torch.zeros(2000, requires_grad=True)
    soft = gates.distribution.sample(score, torch.rand(2000))
    torch.testing.assert_close(out, (soft > 0.5).float())
    out.sum().backward()
    soft.sum().backward()
    assert gates.log_alpha.grad is not None and score.grad is not None
    torch.testing.assert_close(gates.log_alpha.grad, score.grad)
    clipped = (soft == 0) | (soft == 1)
    assert clipped.any() and (~clipped).any()
    assert (score.grad[clipped] == 0).all() and (score.grad[~clipped] > 0).all()


@given(st.lists(st.booleans(), min_size=1, max_size=16))
def test_a_fixed_mask_is_what_inference_shows(keep: list[bool]) -> None:
    gates = HeadGates(len(keep))
    gates.mode = GateMode.THRESHOLD
    gates.set_mask(torch.tensor(keep))
    assert gates().bool().tolist() == keep


def test_gates_start_open() -> None:
    assert GATE.p_open(HeadGates(3).log_alpha).min() > 0.9


def test_weight_decay_does_not_move_gates() -> None:
    gates = HeadGates(5)
    optimiser = torch.optim.AdamW(parameter_groups(gates, weight_decay=0.5), lr=0.1)
    before = gates.log_alpha.detach().clone()
    (gates.log_alpha.sum() * 0).backward()
    optimiser.step()
    assert torch.equal(gates.log_alpha, before)
