"""The figures of an order are right on small sequences, and worse where an order mixes worse; nothing is timed."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from benchmarks.order.__main__ import (
    MIX_COLUMNS,
    autocorrelation,
    downloads,
    hashed_archive,
    measure,
    measure_mixes,
    mixing,
    reading,
    same_patient,
    same_patient_by_chance,
    shards_at_once,
    sorted_archive,
    table,
)
from vetdino.pretrain.batches.order import StudyOrder


def test_autocorrelation_is_that_of_a_loop():
    values = np.random.default_rng(0).normal(size=50).cumsum()
    centered = values - values.mean()
    slow = [np.mean(centered[:-lag] * centered[lag:]) / np.mean(centered**2) for lag in range(1, 8)]
    assert autocorrelation(values, 7) == pytest.approx(slow)


def test_pairs_of_one_patient_are_counted():
    patients = np.array([0, 0, 1, 1, 1, 2])
    assert same_patient(patients, 2).tolist() == [3 / 5, 1 / 4]
    assert same_patient_by_chance(patients) == pytest.approx((2 + 6) / 30)


def test_a_shard_is_open_from_its_first_to_its_last_read():
    assert shards_at_once(np.array([0, 0, 1, 1])) == 1
    assert shards_at_once(np.array([0, 1, 0, 2, 3, 2])) == 2


def test_a_cache_drops_the_shard_used_longest_ago():
    assert downloads(np.array([0, 1, 0, 1, 2, 1, 0]), cache=2) == 4
    assert downloads(np.array([0, 1, 0, 1, 2, 1, 0]), cache=3) == 3


def test_sorted_shards_mix_better_with_more_lanes_and_wider_windows_and_hashed_ones_like_a_permutation():
    worst = sorted_archive(shards=64, studies=100, prevalence=0.25, seed=0)

    def figures(archive, window: int, lanes: int) -> dict[str, float]:
        return mixing(StudyOrder(archive.studies, 32, 0, archive.shards, window, lanes), archive, epochs=4)

    narrow, more, wider, all_of_them = (figures(worst, *each) for each in ((1, 2), (1, 8), (4, 8), (0, 1)))
    for name in ("label_mean", "share_variance", "patient", "patient_pairs"):
        assert narrow[name] > 1.5 * more[name] > 2 * wider[name], name
    assert abs(all_of_them["label_mean"]) < 0.01
    assert all_of_them["share_variance"] == pytest.approx(1, abs=0.2)
    assert all_of_them["patient"] == pytest.approx(1, abs=0.3)
    hashed = figures(hashed_archive(worst, 0), 1, 2)
    assert abs(hashed["label_mean"]) < 0.01
    assert hashed["share_variance"] == pytest.approx(1, abs=0.2)


def test_a_worker_reads_as_many_shards_at_once_as_its_lanes_have_windows_for():
    order = StudyOrder(800, 16, 0, (20,) * 40, window=2, lanes=8)
    figures = reading(order, workers=4, cache=6, epochs=2)
    assert figures["shards_at_once"] == 4  # two lanes of two shards
    assert 1 <= figures["downloads"] <= 1 + 8 * 2 / 40
    assert reading(StudyOrder(800, 16, 0, (20,) * 40), workers=4, cache=6, epochs=2)["downloads"] > 10


def test_a_mix_is_more_even_than_draws_and_its_lanes_mix_sorted_archives_like_those_of_one():
    args = argparse.Namespace(
        shards=60, studies=60, prevalence=0.25, batch=32, seed=0, windows=[4], lanes=[2, 8], epochs=3, mix=[3, 2, 1]
    )  # fmt: skip
    rows = measure_mixes(args)
    drawn, plain, few, many = rows
    assert table(rows, MIX_COLUMNS).count("\n") == 4
    assert drawn["folder_variance"] == pytest.approx(1, abs=0.25)
    assert drawn["patient"] == pytest.approx(1, abs=0.3) == plain["patient"]
    assert max(row["folder_variance"] for row in (plain, few, many)) < 0.05
    assert plain["label_variance"] < 1.2
    assert few["label_variance"] > 1.5 * many["label_variance"]


def test_the_table_has_a_line_for_each_order_of_each_archive():
    args = argparse.Namespace(
        shards=20, studies=20, prevalence=0.3, batch=8, seed=0, windows=[1, 2], lanes=[4], epochs=1, workers=2, cache=4
    )  # fmt: skip
    rows = measure(args)
    assert [(row["archive"], row["window"]) for row in rows][:4] == [
        ("sorted", 0), ("sorted", 1), ("sorted", 2), ("hashed", 0)
    ]  # fmt: skip
    assert table(rows).count("\n") == 6
