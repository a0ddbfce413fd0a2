"""A job's log as it is printed here, and its end. The parts; `tests/infra/test_commands.py` has a real Ray."""

from __future__ import annotations

import json
import sys

import pytest

from vetdino.infra.jobs.follow import LogPrinter, exit_code
from vetdino.platform.core.errors import ClusterError
from vetdino.platform.core.progress import RelayedProgress

LINE = json.dumps({"progress": "pretrain", "done": 3, "total": 9, "unit": "steps", "finished": False})


@pytest.fixture
def printer() -> LogPrinter:
    return LogPrinter(RelayedProgress())


def test_nothing_is_printed_of_an_empty_log(printer, capsys):
    printer.finish()
    assert tuple(capsys.readouterr()) == ("", "")


def test_results_errors_and_progress_go_where_the_command_itself_sends_them(printer, capsys):
    printer.feed(f"shard 1\nvetdino: no such folder\n{LINE}\n/data/out")
    printer.finish()
    printed = capsys.readouterr()
    assert printed.out == "shard 1\n/data/out\n"
    assert printed.err == f"vetdino: no such folder\n{LINE}\n"


def test_a_line_in_pieces_is_printed_once_it_is_whole(printer, capsys):
    printer.feed("sha")
    assert capsys.readouterr().out == ""
    printer.feed("rd 1\nsh")
    assert capsys.readouterr().out == "shard 1\n"


def test_a_log_read_again_goes_on_where_it_broke_off(printer, capsys):
    printer.feed("a\nb\nc")
    printer.restart()
    printer.feed("a\nb\nc\nd\n")
    printer.finish()
    assert capsys.readouterr().out == "a\nb\nc\nd\n"


SAID = json.dumps({"time": "2026-11-28T23:00:00.000Z", "level": "warning", "message": "MLflow is away"})


@pytest.mark.parametrize(
    ("terminal", "shown"),
    [(False, SAID), (True, "vetdino: warning: MLflow is away")],
    ids=["pipe", "terminal"],
)
def test_a_warning_is_a_sentence_on_a_terminal(terminal, shown, printer, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    printer.feed(f'{SAID}\n{{"time": 1}}\n{{"time": \n')
    printed = capsys.readouterr()
    assert printed.err == f"{shown}\n"
    assert printed.out == '{"time": 1}\n{"time": \n'


def details(status: str, code: int | None = None, message: str | None = None):
    models = pytest.importorskip("ray.dashboard.modules.job.pydantic_models")
    return models.JobDetails(
        type="SUBMISSION",
        submission_id="raysubmit_1",
        status=status,
        entrypoint="",
        driver_exit_code=code,
        message=message,
    )


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 2, 2),
        ("FAILED", 143, 143),
        ("FAILED", -9, 137),
        ("STOPPED", None, 143),
        ("SUCCEEDED", None, 0),
    ],
)
def test_the_exit_code_is_that_of_the_jobs_command(status, code, expected):
    assert exit_code(details(status, code)) == expected


def test_a_job_that_could_not_start_ends_in_rays_reason():
    with pytest.raises(ClusterError, match=r"could not run raysubmit_1 \(no space left\)"):
        exit_code(details("FAILED", None, "runtime_env setup failed:\nno space left\n"))
