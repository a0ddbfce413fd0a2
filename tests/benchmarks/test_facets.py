"""Both ways of taking facets give the same ones, and memory is told; nothing here is timed."""

from __future__ import annotations

import pytest

from benchmarks.facets.__main__ import (
    LIMIT,
    backbone_of,
    compare,
    furthest,
    grown,
    images_of,
    in_one_pass,
    one_by_one,
    parsed,
)

TINY = parsed(["--images", "2", "--side", "32", "--width", "32", "--heads", "2", "--depth", "2"])


def test_one_pass_and_a_pass_each_give_the_same_facets():
    found = compare(TINY)
    assert found["apart"] < 1e-5
    assert found["a pass each"]["passes"] == 2 * 5


def test_a_difference_is_told():
    backbone, images = backbone_of(TINY), images_of(TINY)
    theirs = one_by_one(backbone, images)
    theirs[1, "attention"][0, 3, 1] += 0.25
    assert furthest(in_one_pass(backbone, images), theirs) == pytest.approx(0.25, abs=1e-5)


@pytest.mark.parametrize("memory", ["keys", "facets"])
def test_the_answer_is_part_of_what_a_process_grows_by(memory):
    TINY.memory = memory
    told = grown(TINY)
    patches = (1 + (32 - 8) // 4) ** 2
    kinds, looks = (1, 1) if memory == "keys" else (4, 2)
    assert told["answer"] == 4 * 2 * patches * (32 * kinds + 2 * looks)
    assert 0 <= told["grown"] < LIMIT
