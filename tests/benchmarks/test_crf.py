"""The dense random field that the product's edges are compared with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from common.crf import Crf, mean_field

BEST = Crf(spread=1.5, sharpness=1.0, compatibility=40.0, iterations=5)


def evidence(classes: int = 3, height: int = 9, width: int = 7) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.rand(classes, height, width, generator=draw).softmax(dim=0)


def bands(count: int = 4, height: int = 9, width: int = 7) -> Tensor:
    return torch.randn(count, height, width, generator=torch.Generator().manual_seed(1))


def test_without_a_say_of_the_neighbours_the_evidence_stays() -> None:
    silent = Crf(spread=1.5, sharpness=1.0, compatibility=0.0)
    torch.testing.assert_close(mean_field(evidence(), bands(), silent), evidence())


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_probabilities_sum_to_one_after_every_iteration(iterations: int) -> None:
    field = mean_field(evidence(), bands(), Crf(1.5, 1.0, 40.0, iterations))
    torch.testing.assert_close(field.sum(0), torch.ones(9, 7))
    assert not torch.allclose(field, evidence(), atol=0.05)


def test_classes_may_come_in_any_order() -> None:
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        mean_field(evidence()[order], bands(), BEST), mean_field(evidence(), bands(), BEST)[order]
    )


@pytest.mark.parametrize("axis", [1, 2])
def test_a_mirrored_image_has_a_mirrored_field(axis: int) -> None:
    mirrored = mean_field(evidence().flip(axis), bands().flip(axis), BEST)
    torch.testing.assert_close(mirrored.flip(axis), mean_field(evidence(), bands(), BEST), atol=1e-4, rtol=1e-4)


def test_where_all_spectra_are_the_same_it_smooths() -> None:
    before, after = (p.argmax(0) for p in (evidence(), mean_field(evidence(), torch.zeros(4, 9, 7), BEST)))
    changes = [int((labels[1:] != labels[:-1]).sum()) for labels in (before, after)]
    assert changes[1] < changes[0] / 2


def test_two_regions_lose_their_noise_and_keep_their_edge() -> None:
    truth = torch.zeros(20, 20, dtype=torch.long)
    truth[:, 10:] = 1
    draw = torch.Generator().manual_seed(0)
    wrong = torch.rand(20, 20, generator=draw) < 0.2
    noisy = torch.nn.functional.one_hot(truth ^ wrong, 2).permute(2, 0, 1) * 0.4 + 0.3
    image = truth.float() * 3 + 0.2 * torch.randn(3, 20, 20, generator=draw)
    error = (mean_field(noisy, image, BEST).argmax(0) != truth).float().mean()
    assert error < 0.02 < wrong.float().mean()
