"""Progress is a bar on a terminal and lines of JSON elsewhere."""

import json
import sys

import pytest

from vetdino.platform.core import progress
from vetdino.platform.core.progress import Progress, RelayedProgress, tables_console, track


def test_nothing_to_do_is_finished_at_once(capsys):
    assert list(track([], label="nothing")) == []
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["done"] == 0


def test_the_items_go_by_unchanged_and_the_last_line_counts_them(capsys):
    assert list(track(iter("abc"), label="letters", total=3, unit="letters")) == ["a", "b", "c"]
    (line,) = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert (record["progress"], record["done"], record["total"], record["unit"]) == (
        "letters",
        3,
        3,
        "letters",
    )
    assert record["finished"]


def test_a_line_is_printed_at_most_every_few_seconds(capsys, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock) * 1.0)
    with Progress("steps", total=40) as bar:
        for step in range(40):
            bar.advance(loss=1 / (step + 3))
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert 2 < len(lines) < 20
    assert not lines[0]["finished"]
    assert lines[0]["seconds_left"] > 0
    assert lines[-1]["loss"] == pytest.approx(1 / 42, rel=1e-3)


def test_a_stage_is_printed_at_once_and_goes_with_the_first_unit(capsys):
    with Progress("pretrain", total=2) as bar:
        bar.stage("starting Ray")
        bar.stage("starting Ray")
        bar.stage("")
        bar.advance(2)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line.get("stage") for line in lines] == ["starting Ray", None]
    assert [line["done"] for line in lines] == [0, 2]


def test_what_is_finished_has_no_stage(capsys):
    with Progress("pretrain", total=0) as bar:
        bar.stage("exporting")
    assert "stage" not in json.loads(capsys.readouterr().err.splitlines()[-1])


def test_work_that_breaks_off_does_not_claim_to_be_finished(capsys):
    def broken():
        yield 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(track(broken(), label="steps", total=2))
    assert not json.loads(capsys.readouterr().err)["finished"]


def test_a_terminal_sees_a_bar_with_its_rate_and_notes(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with Progress("decode", total=3, unit="views") as bar:
        bar.advance(3, loss=0.123456)
    shown = capsys.readouterr()
    assert "3/3" in shown.err
    assert "loss 0.1235" in shown.err
    assert shown.out == ""


def test_a_wide_table_is_not_folded_in_a_pipe(capsys):
    console = tables_console()
    assert not console.is_terminal
    console.print(" ".join(["word"] * 60))
    assert capsys.readouterr().out.splitlines() == [" ".join(["word"] * 60)]


LINE = {
    "progress": "pretrain",
    "done": 2,
    "total": 9,
    "unit": "steps",
    "finished": False,
    "ray_job": "raysubmit_1",
}


@pytest.mark.parametrize("line", ["", "{", '{"progress": 3', '{"progress": "x"}', '{"step": 1}', "progress"])
def test_another_line_is_no_progress(line, capsys):
    assert not RelayedProgress().show(line)
    assert tuple(capsys.readouterr()) == ("", "")


def test_progress_from_elsewhere_is_the_same_lines_in_a_pipe(capsys):
    with Progress("pretrain", total=2) as bar:
        bar.advance(2, loss=0.5)
    printed = capsys.readouterr().err
    assert RelayedProgress().show(printed.rstrip("\n"))
    assert capsys.readouterr().err == printed


def test_progress_from_elsewhere_is_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "140")
    relayed = RelayedProgress()
    assert relayed.show(json.dumps(LINE | {"done": 0, "stage": "starting 8 workers"}))
    assert relayed.show(json.dumps(LINE | {"loss": 0.5}))
    print("a result")  # a pipe, so it goes there though a bar is drawn
    relayed.close()
    printed = capsys.readouterr()
    assert "stage starting 8 workers" in printed.err
    assert "2/9" in printed.err
    assert "loss 0.5" in printed.err
    assert "{" not in printed.err
    assert "raysubmit_1" not in printed.err
    assert printed.out == "a result\n"


def test_a_new_task_has_a_bar_of_its_own(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    relayed = RelayedProgress()
    relayed.show(json.dumps(LINE | {"done": 9, "finished": True}))
    relayed.show(json.dumps(LINE | {"progress": "export", "done": 1, "total": 4}))
    relayed.close()
    printed = capsys.readouterr().err
    assert "9/9" in printed
    assert "1/4" in printed
