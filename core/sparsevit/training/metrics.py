"""How well predicted tags agree with known ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsevit.models import torchvision_compat  # noqa: F401 (before torchmetrics, which imports torchvision)

from torchmetrics.functional.classification import (  # isort: skip
    multilabel_average_precision,
    multilabel_f1_score,
)


@dataclass(frozen=True)
class TagScores:
    """Scores of predicted tags.

    Attributes:
        macro_f1: Mean over classes of the F1 at probability 0.5.
        mean_ap: Mean over classes of the average precision (mAP).
        tag_loss: Mean binary cross-entropy.
        f1: F1 of each class `[K]`; NaN for a class that no held-out tile has.
    """

    macro_f1: float
    mean_ap: float
    tag_loss: float
    f1: list[float]


def tag_scores(logits: Tensor, tags: Tensor, loss: float) -> TagScores:
    """Score tag logits `[N, K]` against tags `[N, K]` (1, 0, -1 unknown); classes never present do not count."""
    target, probabilities = tags.long(), logits.float().sigmoid()
    seen = (target == 1).any(0)
    labels = logits.shape[1]
    f1 = multilabel_f1_score(probabilities, target, labels, average="none", ignore_index=-1)
    ap = multilabel_average_precision(probabilities, target, labels, average="none", ignore_index=-1)
    f1 = torch.where(seen, f1, torch.nan)
    return TagScores(float(f1[seen].mean()), float(ap[seen].mean()), loss, [float(v) for v in f1])
