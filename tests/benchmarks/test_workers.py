"""The benchmark of a second worker measures the product's loader and keeps the best round."""

from __future__ import annotations

import pytest

from benchmarks.embed.__main__ import write_shards
from benchmarks.workers.__main__ import in_turns, loader


def test_the_best_round_of_each_number_of_workers_is_kept():
    calls = []

    def part(workers: int, number: int) -> float:
        calls.append((workers, number))
        return 10.0 * workers - number

    assert in_turns(part, 2) == [10.0, 20.0]
    assert calls == [(1, 0), (2, 0), (1, 1), (2, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("planned_only", [False, True])
def test_the_loader_makes_batches(tmp_path, planned_only):
    write_shards(tmp_path / "shards", 40, 128, shard_mb=1)
    assert loader(tmp_path, 1, 1, planned_only) > 0
