"""Both methods give the same facets, and memory is measured; nothing here is timed."""

from __future__ import annotations

import pytest

from benchmarks.facets.__main__ import (
    LIMIT,
    compare,
    in_one_pass,
    largest_difference,
    memory_growth,
    one_by_one,
    parse_args,
    random_images,
    small_vit,
)

TINY = parse_args(["--images", "2", "--side", "32", "--width", "32", "--heads", "2", "--depth", "2"])


def test_one_pass_and_a_pass_each_give_the_same_facets():
    result = compare(TINY)
    assert result["apart"] < 1e-5
    assert result["a pass each"]["passes"] == 2 * 5


def test_a_difference_is_measured():
    backbone, images = small_vit(TINY), random_images(TINY)
    theirs = one_by_one(backbone, images)
    theirs[1, "attention"][0, 3, 1] += 0.25
    assert largest_difference(in_one_pass(backbone, images), theirs) == pytest.approx(0.25, abs=1e-5)


@pytest.mark.parametrize("memory", ["keys", "facets"])
def test_the_result_is_part_of_the_memory_growth(memory):
    TINY.memory = memory
    sizes = memory_growth(TINY)
    patches = (1 + (32 - 8) // 4) ** 2
    kinds, maps = (1, 1) if memory == "keys" else (4, 2)
    assert sizes["answer"] == 4 * 2 * patches * (32 * kinds + 2 * maps)
    assert 0 <= sizes["grown"] < LIMIT
