"""Texts are drawn as they are described, and what is counted is what happened; nothing here is timed."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.burned_in.__main__ import FONTS, burn, identifier, ink_of, measure, shares, table, wilson


@pytest.mark.parametrize("font", FONTS)
def test_capitals_are_as_tall_as_they_should_be(font):
    rows = np.flatnonzero((ink_of("H", font, 24) > 0.5).any(1))
    assert abs(len(rows) - 24) <= 3
    assert len(np.flatnonzero((ink_of("HHHH", font, 24) > 0.5).any(0))) > 30


def test_ink_is_brighter_or_darker_than_what_lies_below_and_nothing_else_changes():
    random = np.random.default_rng(0)
    picture = np.full((60, 200), 100, np.uint8)
    for _ in range(20):
        burned, ink = burn(picture, ink_of("Anna", "hershey", 12), 80, random)
        assert set(np.unique(burned[ink > 0.99])) <= {20, 180}
        assert (burned[ink == 0] == 100).all()
    assert burn(picture, np.ones((61, 10), np.float32), 80, random) is None


def test_identifiers_are_long_enough_to_name_somebody():
    random = np.random.default_rng(0)
    kinds, texts = zip(*(identifier(random) for _ in range(100)), strict=True)
    assert set(kinds) == {"name", "date", "number", "line"}
    assert min(map(len, texts)) >= 6


def test_intervals_of_a_proportion():
    low, high = wilson(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.49, 0.943)  # Brown, Cai, DasGupta 2001
    assert wilson(0, 0)[0] == pytest.approx(0)
    assert shares([]) == "- | - | 0"


@pytest.mark.slow
def test_a_small_run_finds_most():
    noise = np.random.default_rng(1).normal(60, 3, (3, 300, 400)).clip(0, 255).astype(np.uint8)
    result = measure({"smooth": iter(noise)}, texts=4, seed=0)
    assert result["alarms"]["smooth"]["alarms"] == 0
    assert sum(case["found"] for case in result["cases"]) >= len(result["cases"]) * 0.6
    assert "| base: smooth |" in table(result)
