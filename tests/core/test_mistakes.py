"""How often people err, and which of their tags are wrong."""

from __future__ import annotations

from itertools import combinations, permutations, product
from math import perm

import pytest
import torch
from torch import Tensor

from sparsevit.geodata.tile_index import ABSENT, PRESENT, UNKNOWN
from sparsevit.training.mistakes import Mistakes, log_evidence, to_forget, wrong_probability

TILES, CLASSES, SHARE = 400, 8, 0.2
KINDS = ("swapped", "added", "left_out")


@pytest.fixture(scope="module")
def proper() -> Tensor:
    """Tags of tiles with one to four of eight classes."""
    rng = torch.Generator().manual_seed(0)
    count = torch.randint(1, 5, (TILES, 1), generator=rng)
    return (torch.rand(TILES, CLASSES, generator=rng).argsort(dim=1) < count).to(torch.int8)


@pytest.fixture(scope="module")
def expected(proper: Tensor) -> Tensor:
    """What somebody expects who is right nineteen times in twenty, and knows that, and how frequent classes are."""
    right = torch.rand(proper.shape, generator=torch.Generator().manual_seed(1)) < 0.95
    seen = torch.where((proper == PRESENT) == right, 0.95, 0.05)
    return torch.sigmoid(seen.logit() + frequency(proper).logit())


def frequency(tags: Tensor) -> Tensor:
    return (tags == PRESENT).float().mean(dim=0)


def mistaken(proper: Tensor, kind: str) -> Tensor:
    """Tags of which a share of the present classes is wrong."""
    rng, tags = torch.Generator().manual_seed(2), proper.clone()
    for tile, name in ((proper == PRESENT) & (torch.rand(proper.shape, generator=rng) < SHARE)).nonzero().tolist():
        others = (tags[tile] == ABSENT).nonzero()[:, 0]
        if kind != "added":
            tags[tile, name] = ABSENT
        if kind != "left_out":
            tags[tile, others[torch.randint(len(others), (), generator=rng)]] = PRESENT
    return tags


def test_all_mistakes_count_as_a_list_of_them_says() -> None:
    tags = torch.tensor([[PRESENT] * 3 + [ABSENT] * 4 + [UNKNOWN]])
    odds = torch.tensor([[0.3, 4.0, 0.7, 2.0, 0.1, 7.0, 0.5, 5.0]], dtype=torch.float64)
    swapped, left_out, added = weights = torch.tensor([0.2, 0.05, 0.01], dtype=torch.float64)
    named, unnamed, total = range(3), range(3, 7), 0.0
    for swaps in range(4):
        for false, meant in product(combinations(named, swaps), permutations(unnamed, swaps)):
            weight = swapped**swaps / perm(4, swaps) * odds[0, [*false, *meant]].prod()
            for tag in {*named, *unnamed} - {*false, *meant}:
                weight = weight * (1 + (added if tag in named else left_out) * odds[0, tag])
            total += weight
    torch.testing.assert_close(log_evidence(tags, odds, weights).exp(), total[None])


@pytest.mark.parametrize("kind", KINDS)
def test_how_people_err_is_learned_from_their_tags(proper: Tensor, expected: Tensor, kind: str) -> None:
    tags, of = mistaken(proper, kind), proper == (ABSENT if kind == "added" else PRESENT)
    told, mistakes = wrong_probability(tags, expected)
    wrong, doubted = tags != proper, told >= 0.5
    found = vars(mistakes).copy()
    assert found.pop(kind) == pytest.approx(float((wrong & of).sum() / of.sum()), rel=0.1)
    assert max(found.values()) < 0.01
    assert (doubted & wrong).sum() > 0.85 * wrong.sum()
    assert told[doubted].mean() == pytest.approx(
        float(wrong[doubted].float().mean()), abs=0.03
    )  # right as often as told


def test_hardly_any_proper_tag_is_doubted_however_unexpected(proper: Tensor, expected: Tensor) -> None:
    assert ((expected < 0.5) == (proper == PRESENT)).float().mean() > 0.04
    wrong, mistakes = wrong_probability(proper, expected)
    assert (wrong >= 0.5).float().mean() < 0.002
    assert max(vars(mistakes).values()) < 0.02


def test_nothing_is_doubted_where_nothing_can_be_told(proper: Tensor, expected: Tensor) -> None:
    guess = frequency(proper).expand_as(expected)
    assert not (wrong_probability(proper, guess)[0] >= 0.5).any()
    rare = proper.clone()
    rare[:, 0] = torch.arange(TILES) % 16 == 0
    one = torch.cat([frequency(rare)[:1].expand(TILES, 1), expected[:, 1:]], dim=1)
    assert not (wrong_probability(rare, one)[0][:, 0] >= 0.5).any()


def test_a_class_is_doubted_where_another_seems_to_be_missing(proper: Tensor, expected: Tensor) -> None:
    tags = mistaken(proper, "swapped")
    doubted = wrong_probability(tags, expected)[0] >= 0.5
    unexpected = (tags == PRESENT) & (expected < 0.5)
    missing = ((tags == ABSENT) & (expected > 0.5)).any(dim=1, keepdim=True)
    assert doubted[unexpected & missing].float().mean() > 4 * doubted[unexpected & ~missing].float().mean()


def test_two_mistakes_of_a_tile_are_found(proper: Tensor, expected: Tensor) -> None:
    tags, seen = mistaken(proper, "swapped"), expected.clone()
    right = torch.tensor([PRESENT, PRESENT] + [ABSENT] * 6, dtype=torch.int8)
    tags[0], seen[0] = right.roll(4), torch.where(right == PRESENT, 0.95, 0.05)
    wrong = wrong_probability(tags, seen)[0][0] >= 0.5
    assert wrong.tolist() == [True, True, False, False, True, True, False, False]


def test_what_is_certain_does_not_outweigh_that_nobody_else_errs(proper: Tensor) -> None:
    certain = (proper == PRESENT).float()
    certain[0, 0] = 1 - certain[0, 0]
    wrong, _ = wrong_probability(proper, certain)
    assert torch.isfinite(wrong).all() and wrong.max() == wrong[0, 0] and wrong[0, 0] < 0.5


def test_unknown_tags_are_neither_doubted_nor_counted(proper: Tensor, expected: Tensor) -> None:
    tags = mistaken(proper, "swapped")
    alone, mistakes = wrong_probability(tags, expected)
    both = torch.cat([tags, torch.full_like(tags, UNKNOWN)])
    wrong, same = wrong_probability(both, torch.cat([expected, 1 - expected]))
    assert (wrong[TILES:] == 0).all()
    torch.testing.assert_close(wrong[:TILES], alone)
    assert vars(same) == pytest.approx(vars(mistakes))
    assert (wrong_probability(both[TILES:], expected)[0] == 0).all()


def test_half_a_mistake_of_each_kind_is_counted_beside_those_found() -> None:
    tags = torch.tensor([[PRESENT, ABSENT]] * 30)
    _, mistakes = wrong_probability(tags, torch.where(tags == PRESENT, 1.0, 0.0))
    assert mistakes.swapped == pytest.approx(0.5 / 31.5, rel=0.05)
    assert mistakes.left_out == pytest.approx(0.5 / 31.5, rel=0.05)
    assert mistakes.added == pytest.approx(0.5 / 31, rel=0.05)


def test_mistakes_are_told_as_shares() -> None:
    told = Mistakes(swapped=0.2, left_out=0.031, added=0.005).in_words()
    assert told.startswith(
        "of the classes in a tile 20.0% are named as another and 3.1% left out; of those that are not"
    )
    assert told.endswith("0.5% are named")


def test_a_class_whose_every_tile_is_doubted_keeps_them() -> None:
    tags = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, -1, 0], [1, 0, 0, 0]], dtype=torch.int8)
    wrong = torch.tensor([[0.9, 0.6, 0.99, 0.1], [0.5, 0.4, 0.1, 0.7], [0.6, 0.2, 0.0, 0.1], [0.7, 0.2, 0.9, 0.1]])
    expected = [
        [False, True, False, False],
        [False, False, False, True],  # nobody is tagged with the fourth class, which has nothing to keep
        [False, False, False, False],
        [False, False, True, False],
    ]
    assert to_forget(tags, wrong).tolist() == expected


def test_tiles_that_were_not_judged_change_nothing() -> None:
    tags = torch.tensor([[1, 0], [-1, -1], [1, 1]], dtype=torch.int8)
    wrong = torch.tensor([[0.9, 0.8], [torch.nan, torch.nan], [0.2, 0.1]])
    assert to_forget(tags, wrong).tolist() == [[True, True], [False, False], [False, False]]
