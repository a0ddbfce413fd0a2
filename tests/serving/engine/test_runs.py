"""Runs of zeroshot and fewshot in a folder: found, read, and nothing else with them."""

from __future__ import annotations

import json

import pytest

from tests.serving.runs import FIGURE, write_run
from vetdino.platform.core.errors import ConfigError, DataError
from vetdino.serving.engine.runs import ShownRuns
from vetdino.serving.studies import NotHereError


def test_a_folder_without_runs_has_none_and_a_missing_one_is_refused(tmp_path):
    assert ShownRuns(tmp_path).list() == []
    with pytest.raises(ConfigError, match="no folder here"):
        ShownRuns(tmp_path / "gone")


def test_runs_are_found_in_folders_below_by_title(tmp_path):
    write_run(tmp_path / "b" / "kshot", kind="few-shot")
    write_run(tmp_path / "a", kind="zero-shot")
    write_run(tmp_path / "a" / "within", kind="zero-shot")  # part of a run
    write_run(tmp_path / "1" / "2" / "3" / "4", kind="zero-shot")  # too deep
    found = ShownRuns(tmp_path).list()
    assert [(run.title, run.kind) for run in found] == [("a", "zero-shot"), ("b/kshot", "few-shot")]
    assert found[0].figures == ("dice",)
    assert (found[0].experiment, found[0].backbone, found[0].left_out) == ("same-domain", "a label", 1)


def test_the_folder_itself_may_be_a_run(tmp_path):
    write_run(tmp_path / "only")
    (run,) = ShownRuns(tmp_path / "only").list()
    assert run.title == "only"


def test_results_hold_metrics_and_the_summary(tmp_path):
    write_run(tmp_path / "a")
    runs = ShownRuns(tmp_path)
    results = runs.results(runs.list()[0].number)
    assert results.metrics == {"dice/phantom": 0.5, "dice/empty": None}
    assert results.columns == ("domain", "row", "dice")
    assert results.rows == (("phantom", "cosegment", "0.5"), ("phantom", "otsu", "nan"))
    assert results.rows_in_file == 2
    assert "bootstrap" in results.notes
    assert runs.figure(results.run.number, "dice") == FIGURE


def test_what_other_commands_left_is_no_run_of_these(tmp_path):
    write_run(tmp_path / "a")
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate" / "metrics.json").write_text(json.dumps({"backbone": "0", "metrics": {"a": 1}}))
    assert [run.title for run in ShownRuns(tmp_path).list()] == ["a"]


@pytest.mark.parametrize("content", ["{", "[]", '{"experiment": "x", "metrics": []}', "\xff"])
def test_a_damaged_run_is_listed_with_its_problem(tmp_path, content):
    write_run(tmp_path / "good")
    write_run(tmp_path / "bad")
    (tmp_path / "bad" / "metrics.json").write_bytes(content.encode("latin-1"))
    runs = ShownRuns(tmp_path)
    bad, good = runs.list()
    assert "damaged" in bad.problem
    assert good.problem == ""
    with pytest.raises(DataError, match="damaged"):
        runs.results(bad.number)


def test_a_summary_or_figure_that_is_damaged_is_an_error(tmp_path):
    write_run(tmp_path / "a")
    (tmp_path / "a" / "summary.csv").write_bytes(b"\xff\xfe")
    (tmp_path / "a" / "figures" / "dice.png").write_bytes(b"no picture")
    runs = ShownRuns(tmp_path)
    (run,) = runs.list()
    with pytest.raises(DataError, match=r"summary.csv.*damaged"):
        runs.results(run.number)
    with pytest.raises(DataError, match=r"dice.*damaged"):
        runs.figure(run.number, "dice")


def test_nothing_outside_of_a_run_is_read(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(FIGURE)
    folder = tmp_path / "runs"
    write_run(folder / "a")
    (folder / "a" / "figures" / "link.png").symlink_to(secret)
    (folder / "outside").symlink_to(tmp_path / "elsewhere")
    write_run(tmp_path / "elsewhere")
    runs = ShownRuns(folder)
    (run,) = runs.list()
    assert run.figures == ("dice",)
    for name in ("link", "../../../secret", "../figures/dice", "nothing"):
        with pytest.raises(NotHereError):
            runs.figure(run.number, name)
    with pytest.raises(NotHereError):
        runs.results("0" * 12)
    (folder / "linked").mkdir()
    (folder / "linked" / "metrics.json").symlink_to(tmp_path / "elsewhere" / "metrics.json")
    [linked] = [one for one in ShownRuns(folder).list() if one.title == "linked"]
    assert (linked.experiment, linked.problem) == (
        "",
        "metrics.json of this run is damaged; run the experiment again.",
    )
    (folder / "a" / "summary.csv").unlink()
    (folder / "a" / "summary.csv").symlink_to(tmp_path / "elsewhere" / "summary.csv")
    assert runs.results(run.number).rows == ()
