"""Training on several devices: one process each does the same job, on its share of every batch.

All processes start from the same seed and step by the same averaged gradients, so their weights stay equal; only the
first one writes files and reports.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector


def size() -> int:
    """Number of processes that train together; 1 without a group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 writes and reports."""
    return dist.get_rank() if dist.is_initialized() else 0


def wait() -> None:
    """Let all processes get here."""
    if size() > 1:
        dist.barrier()


def share_of(positions: Tensor) -> Tensor:
    """This process's part of a batch `[B]`; a batch with fewer tiles than processes goes whole to each."""
    return positions[rank() :: size()] if len(positions) >= size() else positions


def average_gradients(network: nn.Module) -> None:
    """Give every process the mean of all gradients."""
    _average([p.grad for p in network.parameters() if p.grad is not None])


def average_buffers(network: nn.Module) -> None:
    """Give every process the mean of all floating-point buffers (statistics of batch normalisation)."""
    _average([b for b in network.buffers() if b.is_floating_point()])


@torch.no_grad()
def _average(tensors: list[Tensor]) -> None:
    if size() == 1 or not tensors:
        return
    flat = parameters_to_vector(tensors)
    dist.all_reduce(flat)
    for tensor, mean in zip(tensors, (flat / size()).split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))
