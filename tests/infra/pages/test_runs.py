"""Runs are read back from their folders, and a folder that holds none is named."""

from dataclasses import replace
from pathlib import Path

import pytest

from vetdino.infra.pages.runs import read_run, read_runs
from vetdino.platform.core.errors import ConfigError, DataError


def test_no_folders_are_no_runs():
    assert read_runs([]) == []


def test_a_training_has_curves_and_an_evaluation_values(folders):
    training, evaluation = read_runs([folders.training("t", seed=3), folders.evaluation("e", skill=2)])
    assert training.is_training
    assert not evaluation.is_training
    assert training.curves["loss/total"] == {10: 7, 20: 6, 30: 5, 40: 4, 50: 3}
    assert [value.finding for value in evaluation.values["knn"]][:3] == ["macro", "mass", "stones"]
    assert evaluation.backbones == {"backbone": "d", "pixels": "pixels-32"}
    assert evaluation.predictions("knn", "backbone").predictions.findings == ("mass", "stones")
    assert evaluation.predictions("knn", "random") is None


def test_repeats_differ_in_seed_and_place_alone(folders):
    one, twin, other = read_runs(
        [folders.training("a", 0), folders.training("b", 1), folders.training("c", 0, lr=0.2)]
    )
    assert one.repeat_key == twin.repeat_key != other.repeat_key
    busy = replace(one, params={**one.params, "threads": 1, "loaders": 4})
    assert busy.repeat_key == replace(one, params={**one.params, "threads": 2, "loaders": 1}).repeat_key
    assert busy.repeat_key != replace(one, params={**one.params, "batch": 1}).repeat_key


def test_folders_of_one_name_are_named_with_their_parent(folders):
    assert [r.name for r in read_runs([folders.training("a/run", 0), folders.training("b/run", 0)])] == [
        "a/run",
        "b/run",
    ]


def test_what_is_no_run_is_refused_by_name(folders, tmp_path):
    folder = folders.training("t", 0)
    with pytest.raises(ConfigError, match=r"no params\.json"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="given twice"):
        read_runs([folder, Path(str(folder) + "/.")])
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(ConfigError, match="recorded nothing yet"):
        read_run(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("params.json", "{"),
        ("params.json", "[]"),
        ("params.json", '{"params": {}}'),
        ("metrics.json", '{"sources": '),
        ("metrics.jsonl", "no\njson\n"),
        ("metrics.jsonl", '{"loss": 3}\n'),
        (
            "knn.csv",
            "metric,finding,source,value,low,high,present,known\nAUROC,macro,ours,0.5,0.4,much,1,2\n",
        ),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(folders, name, content):
    folder = folders.evaluation("e", skill=1)
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=f"{name}: damaged"):
        read_run(folder)


def test_another_kind_of_table_holds_no_metric_values(folders):
    folder = folders.evaluation("e", skill=1)
    (folder / "seconds.csv").write_text("step,seconds\n1,2\n")
    assert set(read_run(folder).values) == {"knn"}
