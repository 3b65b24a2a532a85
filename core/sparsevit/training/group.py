"""Training on several devices: one process each does the same job, on its share of every batch.

All processes start from the same seed and step by the same averaged gradients, so their weights stay equal; only the
first one writes files and reports.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn


@contextmanager
def membership(backend: str, rendezvous: Path, rank: int, size: int) -> Iterator[None]:
    """Belong to a group of `size` processes that meet at the file `rendezvous`, and take leave when all went well.

    Who ends without leaving may be aborted by the group's threads, after the work was done. After an error there is no
    leave-taking: others may still wait for this process, and leaving could wait for them.
    """
    dist.init_process_group(backend, init_method=rendezvous.as_uri(), rank=rank, world_size=size)
    yield
    dist.destroy_process_group()


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
def mean(values: Tensor) -> Tensor:
    """The mean of a tensor over all processes, all of which must ask for it; without a group the tensor itself."""
    if size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / size()


@torch.no_grad()
def _average(tensors: list[Tensor]) -> None:
    if size() == 1 or not tensors:
        return
    flat = mean(torch.cat([t.flatten() for t in tensors]))
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
