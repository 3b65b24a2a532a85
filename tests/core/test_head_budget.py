"""The head budget: heads are counted, never averaged."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import tagged_tiles, tiny_architecture
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from sparsevit.models.gates import GateMode, HeadGates
from sparsevit.models.hardware import HardwareSettings
from sparsevit.models.landcover import LandCoverModel
from sparsevit.models.vit import SparseViT, ViTConfig
from sparsevit.reporting import Reporter
from sparsevit.training.head_budget import HeadBudget, heads_to_keep, random_mask
from sparsevit.training.loop import TrainingSettings, make_fabric
from sparsevit.training.phases import ClassifierSettings, ClassifierTraining

SCORE = st.floats(-20, 20, allow_nan=False, width=32)
LAYERS = st.lists(st.lists(SCORE, min_size=1, max_size=6), min_size=1, max_size=5)


def gates_with(scores: list[list[float]]) -> list[HeadGates]:
    gates = []
    for layer in scores:
        gate = HeadGates(len(layer))
        gate.log_alpha.data = torch.tensor(layer, dtype=torch.float32)
        gates.append(gate)
    return gates


def count(mask: list[Tensor]) -> int:
    return sum(int(m.sum()) for m in mask)


@given(LAYERS, st.data())
def test_exactly_the_number_asked_for_survives_from_any_scores(scores: list[list[float]], data: st.DataObject) -> None:
    gates = gates_with(scores)
    total = sum(map(len, scores))
    keep = data.draw(st.integers(1, total))
    budget = HeadBudget(gates, keep)
    for done in (0.0, 0.3, 0.8, 1.0):
        budget.project(done)
    mask = budget.mask()
    assert count(mask) == keep
    assert [len(m) for m in mask] == [len(layer) for layer in scores]


@given(st.lists(st.integers(-15, 15), min_size=2, max_size=24, unique=True), st.data())
def test_what_inference_shows_is_what_the_budget_counts(scores: list[int], data: st.DataObject) -> None:
    gates = gates_with([[s / 10 for s in scores]])
    keep = data.draw(st.integers(1, len(scores)))
    budget = HeadBudget(gates, keep)
    for step in range(21):
        budget.project(step / 20)
        assert int((gates[0].log_alpha > 0).sum()) == budget.allowed(step / 20)
    gates[0].mode = GateMode.THRESHOLD
    shown = gates[0]()
    assert shown is not None and torch.equal(shown.bool(), budget.mask()[0])


@given(st.lists(st.integers(-30, 30), min_size=2, max_size=24, unique=True), st.data())
def test_the_heads_with_the_best_scores_survive(scores: list[int], data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, len(scores)))
    budget = HeadBudget(gates_with([[s / 10 for s in scores]]), keep)
    budget.project(1.0)
    best = set(sorted(range(len(scores)), key=lambda i: -scores[i])[:keep])
    assert set(budget.mask()[0].nonzero().flatten().tolist()) == best


@given(st.integers(1, 200), st.data())
def test_allowed_heads_fall_from_all_to_the_budget_and_never_rise(total: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, total))
    budget = HeadBudget(gates_with([[0.0] * total]), keep)
    allowed = [budget.allowed(step / 50) for step in range(51)]
    assert allowed[0] == total and allowed[-1] == keep
    assert allowed == sorted(allowed, reverse=True)


@given(LAYERS)
def test_the_penalty_is_a_share_of_the_heads(scores: list[list[float]]) -> None:
    assert 0 <= HeadBudget(gates_with(scores), 1).penalty().item() <= 1


def test_the_penalty_is_the_mean_probability_of_open_gates_and_lowers_every_score() -> None:
    scores = [[-2.0, 0.0], [0.5, 1.0, 3.0]]
    gates = gates_with(scores)
    penalty = HeadBudget(gates, 1).penalty()
    penalty.backward()
    p_open = [[1 / (1 + math.exp(-s)) for s in layer] for layer in scores]
    assert penalty.item() == pytest.approx(sum(map(sum, p_open)) / 5) and penalty > 0
    for gate, layer in zip(gates, p_open, strict=True):
        assert gate.log_alpha.grad is not None and (gate.log_alpha.grad > 0).all()  # a step goes down
        assert gate.log_alpha.grad.tolist() == pytest.approx([p * (1 - p) / 5 for p in layer])


def test_gates_train_at_a_rate_of_their_own_without_weight_decay() -> None:
    tiles, _ = tagged_tiles(8)
    torch.manual_seed(0)
    model = LandCoverModel(tiny_architecture())
    vit = model.vit
    assert vit is not None
    fabric = make_fabric(HardwareSettings(device="cpu", precision="32-true"))
    training = TrainingSettings(batch=8, learning_rate=0.002, weight_decay=0.5, schedule="constant")
    groups: list[dict[str, Any]] = []
    hook = register_optimizer_step_post_hook(lambda optimiser, *_: groups.extend(optimiser.param_groups))
    settings = ClassifierSettings(gate_epochs=1, gate_learning_rate=0.03)
    ClassifierTraining(model, tiles, training, fabric, None).close_gates(copy.deepcopy(vit), 2, settings, Reporter())
    hook.remove()
    of = {id(p): (g["weight_decay"], g["lr"]) for g in groups for p in g["params"]}
    assert sum(len(g["params"]) for g in groups) == len(of) == len(list(vit.parameters()))
    assert {of[id(g.log_alpha)] for g in vit.gates()} == {(0.0, 0.03)}
    assert of[id(vit.blocks[0].attn.qkv.weight)] == (0.5, 0.001)


@given(st.floats(0.001, 1), st.integers(1, 200))
def test_a_share_is_at_least_one_head_and_at_most_all(share: float, total: int) -> None:
    kept = heads_to_keep(share, total)
    assert 1 <= kept <= total
    assert abs(kept - share * total) <= 1
    assert heads_to_keep(1.0, total) == total


@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), st.integers(0, 99), st.data())
def test_random_heads_are_as_many_as_the_learned_ones(heads: list[int], seed: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(0, sum(heads)))
    mask = random_mask(heads, keep, seed)
    assert count(mask) == keep and [len(m) for m in mask] == heads
    assert all(torch.equal(a, b) for a, b in zip(mask, random_mask(heads, keep, seed), strict=True))


def test_planted_useless_heads_are_removed_first() -> None:
    """Three of four heads have zero values: they can say nothing, whatever they attend to."""
    torch.manual_seed(0)
    vit = SparseViT(ViTConfig(2, 2, 8, 2, 12, (4, 4), 3, 16, embed_std=0.5))
    useful = [1, 2]  # one head of each block
    for block, head in zip(vit.blocks, useful, strict=True):
        value = block.attn.qkv.weight.data.view(3, 4, 3, 12)[2]
        value[[h for h in range(4) if h != head]] = 0
        value[head] *= 8
    x = torch.randn(64, 2, 8, 8)
    vit.set_gate_mode(GateMode.OPEN)
    with torch.no_grad():
        target = vit(x).tags
    vit.requires_grad_(False)
    scores = [g.log_alpha.requires_grad_(True) for g in vit.gates()]
    budget = HeadBudget(vit.gates(), keep=2)
    vit.set_gate_mode(GateMode.SAMPLE)
    vit.train()
    optimiser = torch.optim.Adam(scores, lr=0.1)
    for step in range(150):
        loss = 5 * (vit(x).tags - target).square().mean() + 0.1 * budget.penalty()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        budget.project((step + 1) / 150)
    assert [m.nonzero().flatten().tolist() for m in budget.mask()] == [[1], [2]]
