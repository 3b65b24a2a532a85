"""How many heads to keep: found by trials, by what held-out tags cost."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import Diary, tagged_tiles, tiny_architecture

from sparsevit.models.hardware import HardwareSettings
from sparsevit.models.vit import ViTConfig
from sparsevit.models.weaktr import weaktr_config
from sparsevit.reporting import Reporter
from sparsevit.training.classifier import train_classifier, untrained
from sparsevit.training.head_budget import BudgetSettings
from sparsevit.training.head_search import TRIAL_STEPS, fewest, find_head_count
from sparsevit.training.loop import TrainingSettings, make_fabric
from sparsevit.training.phases import ClassifierSettings, ClassifierTraining
from sparsevit.training.tiles import band_statistics

FABRIC = make_fabric(HardwareSettings(device="cpu", precision="32-true"))
TILES, _ = tagged_tiles(24)
STATISTICS = band_statistics(TILES.store)
SETTINGS = ClassifierSettings(epochs=1, gate_epochs=1, finetune_epochs=0, spectral_epochs=1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9).map(sorted), st.floats(0, 1))
def test_the_fewest_heads_that_cost_little_are_found_in_few_trials(scores: list[float], cost: float) -> None:
    counts, asked = list(range(1, len(scores) + 1)), list[int]()

    def macro_f1(keep: int) -> float:
        asked.append(keep)
        return scores[keep - 1]

    found = fewest(counts, macro_f1, cost)
    assert found == min(count for count in counts if scores[count - 1] >= scores[-1] - cost)
    assert len(asked) == len(set(asked)) <= 1 + (len(counts) - 1).bit_length()


def trained_for(budget: BudgetSettings, reporter: Reporter, held_out: bool = True, network: str = "gated") -> int:
    validation, architecture = TILES if held_out else None, tiny_architecture()
    if network != "gated":
        assert isinstance(architecture.vit, ViTConfig)
        architecture = replace(architecture, vit=weaktr_config(architecture.vit, "repaired"))
    training = TrainingSettings(batch=8)
    trained = train_classifier(
        architecture, STATISTICS, TILES, validation, SETTINGS, budget, training, FABRIC, reporter
    )
    vit = trained.model.vit
    assert vit is not None and sum(map(sum, trained.head_mask)) == sum(vit.heads)
    return sum(vit.heads)


@pytest.mark.parametrize(("held_out", "network"), [(True, "gated"), (False, "gated"), (True, "weaktr")])
def test_one_head_will_do_where_heads_may_cost_everything(held_out: bool, network: str) -> None:
    diary = Diary()
    assert trained_for(BudgetSettings(heads_cost=1.0, controls=False), diary, held_out, network) == 1  # by default
    assert any("1 of 4 heads will do" in line for line in diary.lines)


def test_a_share_that_is_set_is_not_searched_for() -> None:
    diary = Diary()
    assert trained_for(BudgetSettings(heads_kept=0.5, heads_cost=1.0, controls=False), diary) == 2
    assert not any("will do" in line for line in diary.lines)


def test_trials_are_as_long_everywhere_and_leave_the_dense_transformer_and_the_model_as_they_were() -> None:
    model = untrained(tiny_architecture(), STATISTICS, 0, FABRIC)
    assert model.vit is not None
    phases = ClassifierTraining(model, TILES, TrainingSettings(batch=8), FABRIC, None)
    dense = copy.deepcopy(model.vit).eval().requires_grad_(False)
    before = [copy.deepcopy(network.state_dict()) for network in (model, dense)]
    diary, longer = Diary(), replace(SETTINGS, gate_epochs=100)
    find_head_count(phases, dense, TILES, longer, 1.0, diary)
    epochs = [len(losses) for name, losses in diary.metrics.items() if name.startswith("trial_")]
    assert len(epochs) > 1 and set(epochs) == {TRIAL_STEPS / 3}  # an epoch has three steps
    for network, state in zip((model, dense), before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
