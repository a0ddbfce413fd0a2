"""Sums, maxima and gathers over the ranks of a process group; without a group a process is rank 0 of 1."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_world_size() -> tuple[int, int]:
    """This process's rank and how many there are; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def sum_over_ranks(value: Tensor) -> None:
    """Replace a tensor by its sum over all ranks, in place; all ranks call this together."""
    if rank_and_world_size()[1] > 1:
        dist.all_reduce(value)


def max_over_ranks(value: Tensor) -> None:
    """Replace a tensor by its maximum over all ranks, in place; all ranks call this together."""
    if rank_and_world_size()[1] > 1:
        dist.all_reduce(value, op=dist.ReduceOp.MAX)


def gather_over_ranks(value: Tensor, dim: int) -> Tensor:
    """The tensors of all ranks, of one shape, side by side along `dim` in the order of the ranks."""
    _, world = rank_and_world_size()
    if world == 1:
        return value
    parts = [torch.empty_like(value) for _ in range(world)]
    dist.all_gather(parts, value.contiguous())
    return torch.cat(parts, dim=dim)
