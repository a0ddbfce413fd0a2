"""Sums, maxima and gathers over ranks; alone a process is the only rank."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from vetdino.platform.training.ranks import (
    gather_over_ranks,
    max_over_ranks,
    rank_and_world_size,
    sum_over_ranks,
)


def test_without_a_process_group_nothing_changes():
    value = torch.tensor([1.0, -2.0])
    assert rank_and_world_size() == (0, 1)
    sum_over_ranks(value)
    max_over_ranks(value)
    assert value.tolist() == [1.0, -2.0]
    assert gather_over_ranks(value, dim=0) is value


def work(folder: Path, rank: int) -> None:
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    total, most = torch.tensor([rank + 1.0]), torch.tensor([rank + 1.0])
    sum_over_ranks(total)
    max_over_ranks(most)
    gathered = gather_over_ranks(torch.full((2, 3), float(rank)), dim=1)
    torch.save([rank_and_world_size(), total, most, gathered], folder / f"{rank}.pt")
    dist.barrier()


@pytest.mark.slow
def test_two_ranks_have_the_same_sum_maximum_and_row_of_tensors(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=work, args=(tmp_path, rank)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    for rank in (0, 1):
        place, total, most, gathered = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert place == (rank, 2)
        assert (total.item(), most.item()) == (3.0, 2.0)
        assert gathered.tolist() == [[0, 0, 0, 1, 1, 1]] * 2
