"""How often people err, and which of their tags are wrong."""

from __future__ import annotations

from itertools import combinations, permutations, product
from math import perm

import pytest
import torch
from torch import Tensor

from sparsevit.geodata.tile_index import ABSENT, PRESENT, UNKNOWN
from sparsevit.training.mistakes import Mistakes, log_evidence, wrong_probability

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
    """What somebody expects who is right nineteen times in twenty, and knows that."""
    right = torch.rand(proper.shape, generator=torch.Generator().manual_seed(1)) < 0.95
    return torch.where((proper == PRESENT) == right, 0.95, 0.05)


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
    tags = torch.tensor([[PRESENT, PRESENT, ABSENT, ABSENT, ABSENT, UNKNOWN]])
    odds = torch.tensor([[0.3, 4.0, 2.0, 0.1, 7.0, 0.0]], dtype=torch.float64)
    swapped, added, left_out = rates = torch.tensor([0.2, 0.05, 0.01], dtype=torch.float64)
    named, unnamed, total = range(2), range(2, 5), 0.0
    for swaps in range(3):
        for false, meant in product(combinations(named, swaps), permutations(unnamed, swaps)):
            weight = swapped**swaps / perm(3, swaps) * odds[0, [*false, *meant]].prod()
            for tag in {*named, *unnamed} - {*false, *meant}:
                weight = weight * (1 + (added if tag in named else left_out) * odds[0, tag])
            total += weight
    torch.testing.assert_close(log_evidence(tags, odds, rates).exp(), total[None])


@pytest.mark.parametrize("kind", KINDS)
def test_how_people_err_is_learned_from_their_tags(proper: Tensor, expected: Tensor, kind: str) -> None:
    tags = mistaken(proper, kind)
    _, mistakes = wrong_probability(tags, expected)
    of = tags == (ABSENT if kind == "left_out" else PRESENT)
    wrong = tags != proper
    found = {name: getattr(mistakes, name) for name in KINDS}
    assert found.pop(kind) == pytest.approx(float((wrong & of).sum() / (~wrong & of).sum()), rel=0.2)
    assert max(found.values()) < 0.03


def test_hardly_any_proper_tag_is_doubted_however_unexpected(proper: Tensor, expected: Tensor) -> None:
    assert ((expected < 0.5) == (proper == PRESENT)).float().mean() > 0.04
    wrong, mistakes = wrong_probability(proper, expected)
    assert (wrong >= 0.5).float().mean() < 0.002
    assert max(mistakes.swapped, mistakes.added, mistakes.left_out) < 0.02


def test_a_class_is_doubted_where_another_seems_to_be_missing(proper: Tensor, expected: Tensor) -> None:
    tags = mistaken(proper, "swapped")
    wrong, doubted = tags != proper, wrong_probability(tags, expected)[0] >= 0.5
    assert (doubted & wrong).sum() >= 0.85 * max(wrong.sum(), doubted.sum())
    unexpected = (tags == PRESENT) & (expected < 0.5)
    missing = ((tags == ABSENT) & (expected > 0.5)).any(dim=1, keepdim=True)
    assert doubted[unexpected & missing].float().mean() > 4 * doubted[unexpected & ~missing].float().mean()


def test_two_mistakes_of_a_tile_are_found(proper: Tensor, expected: Tensor) -> None:
    tags, seen = mistaken(proper, "swapped"), expected.clone()
    right = torch.tensor([PRESENT, PRESENT] + [ABSENT] * 6, dtype=torch.int8)
    tags[0], seen[0] = right.roll(4), torch.where(right == PRESENT, 0.95, 0.05)
    wrong = wrong_probability(tags, seen)[0][0] >= 0.5
    assert wrong.tolist() == [True, True, False, False, True, True, False, False]


def test_unknown_tags_are_neither_doubted_nor_counted(proper: Tensor, expected: Tensor) -> None:
    tags = mistaken(proper, "swapped")
    alone, mistakes = wrong_probability(tags, expected)
    both = torch.cat([tags, torch.full_like(tags, UNKNOWN)])
    wrong, same = wrong_probability(both, torch.cat([expected, 1 - expected]))
    assert (wrong[TILES:] == 0).all()
    torch.testing.assert_close(wrong[:TILES], alone)
    assert vars(same) == pytest.approx(vars(mistakes))
    assert (wrong_probability(both[TILES:], expected)[0] == 0).all()


def test_few_tags_do_not_prove_that_nobody_errs() -> None:
    tags = torch.tensor([[PRESENT, ABSENT]] * 3)
    few = wrong_probability(tags, torch.where(tags == PRESENT, 0.9, 0.1))[1]
    tags = tags.repeat(100, 1)
    many = wrong_probability(tags, torch.where(tags == PRESENT, 0.9, 0.1))[1]
    for kind in KINDS:
        assert 0 < getattr(many, kind) < 0.1 * getattr(few, kind)


def test_mistakes_are_told_as_shares() -> None:
    told = Mistakes(swapped=0.5, added=1.0, left_out=0.25).in_words()
    assert told.startswith("about 20% of the named classes stand for another and 40% are not there; 20% of")
