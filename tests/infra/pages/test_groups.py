"""Groups of runs that differ in their seed alone, and columns of evaluations."""

from __future__ import annotations

from vetdino.infra.pages.groups import measured_sources, run_groups, source_columns
from vetdino.infra.pages.runs import read_runs
from vetdino.platform.core.config import from_json
from vetdino.platform.models.card import Card


def digest_of(training) -> str:
    return from_json(Card, (training / "backbone" / "card.json").read_text()).digest


def test_no_runs_make_no_columns_and_no_groups():
    assert source_columns([], []) == []
    assert run_groups([], []) == []


def test_repeats_and_their_evaluations_are_one_group(folders):
    trainings = [folders.training(f"multi-{seed}", seed, backbone=True) for seed in (0, 1)]
    evaluations = [
        folders.evaluation(f"e{n}", 1 + n, digest=digest_of(t), seed=n) for n, t in enumerate(trainings)
    ]
    other = folders.training("single", 0, lr=0.2)
    runs = read_runs([*trainings, other])
    columns = source_columns(read_runs(evaluations), runs)
    groups = run_groups(runs, columns)
    assert [group.name for group in groups] == ["multi (2 seeds)", "single", "pixels"]
    assert [group.color for group in groups] == [0, 1, 2]
    assert [column.name for column in groups[0].columns] == ["e0", "e1"]
    assert [run.name for run in groups[0].trainings] == ["multi-0", "multi-1"]


def test_a_baseline_with_equal_values_is_listed_once_and_last(folders):
    runs = read_runs([folders.evaluation("a", 1, digest="a"), folders.evaluation("b", 2, digest="b")])
    assert [column.name for column in source_columns(runs, [])] == ["a", "b", "pixels"]


def test_a_column_knows_its_values(folders):
    [run] = read_runs([folders.evaluation("a", 1)])
    [column, _] = source_columns([run], [])
    assert column.value("knn", "AUROC", "mass") in run.values["knn"]
    assert column.value("knn", "AUROC", "nothing") is None
    assert column.value("linear", "AUROC", "mass") is None


def test_differences_are_no_sources(folders):
    [run] = read_runs([folders.evaluation("a", 1)])
    assert measured_sources(run) == ["backbone", "pixels"]
