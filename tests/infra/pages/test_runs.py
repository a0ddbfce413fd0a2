"""What a run's folder tells is read back, and a folder that tells nothing is named."""

from dataclasses import replace
from pathlib import Path

import pytest

from vetdino.infra.pages.runs import record_of, records_of
from vetdino.platform.core.errors import ConfigError, DataError


def test_no_folders_are_no_records():
    assert records_of([]) == []


def test_a_training_tells_curves_and_an_evaluation_figures(folders):
    training, evaluation = records_of([folders.training("t", seed=3), folders.evaluation("e", skill=2)])
    assert training.trains
    assert not evaluation.trains
    assert training.curves["loss/total"] == {10: 7, 20: 6, 30: 5, 40: 4, 50: 3}
    assert [figure.finding for figure in evaluation.figures["knn"]][:3] == ["macro", "mass", "stones"]
    assert evaluation.backbones == {"backbone": "d", "pixels": "pixels-32"}
    assert evaluation.answers("knn", "backbone").answers.findings == ("mass", "stones")
    assert evaluation.answers("knn", "random") is None


def test_runs_of_one_family_differ_in_seed_and_place_alone(folders):
    one, twin, other = records_of(
        [folders.training("a", 0), folders.training("b", 1), folders.training("c", 0, lr=0.2)]
    )
    assert one.family == twin.family != other.family
    busy = replace(one, params={**one.params, "threads": 1, "loaders": 4})
    assert busy.family == replace(one, params={**one.params, "threads": 2, "loaders": 1}).family
    assert busy.family != replace(one, params={**one.params, "batch": 1}).family


def test_folders_of_one_name_are_told_apart_by_what_is_above_them(folders):
    assert [r.name for r in records_of([folders.training("a/run", 0), folders.training("b/run", 0)])] == [
        "a/run",
        "b/run",
    ]


def test_what_is_no_run_is_refused_by_name(folders, tmp_path):
    folder = folders.training("t", 0)
    with pytest.raises(ConfigError, match=r"nowhere: no run here \(no params\.json\)"):
        record_of(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="given twice"):
        records_of([folder, Path(str(folder) + "/.")])
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(ConfigError, match="recorded nothing yet"):
        record_of(folder)


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
    with pytest.raises(DataError, match=rf"{name}: damaged.*again$"):
        record_of(folder)


def test_a_table_of_something_else_is_no_table_of_figures(folders):
    folder = folders.evaluation("e", skill=1)
    (folder / "seconds.csv").write_text("step,seconds\n1,2\n")
    assert set(record_of(folder).figures) == {"knn"}
