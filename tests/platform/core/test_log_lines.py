"""What a command says: a sentence on a terminal, a line of JSON elsewhere, with what is known of the job."""

from __future__ import annotations

import json
import logging
import re
import sys
import warnings

from vetdino.platform.core import log_lines
from vetdino.platform.core.log_lines import JsonLines, job_named, say, warn, warnings_as_lines
from vetdino.platform.core.progress import Progress


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_terminal_sees_sentences(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    say("continues after step 2")
    warn("no pairs")
    assert capsys.readouterr().err == "vetdino: continues after step 2\nvetdino: warning: no pairs\n"


def test_elsewhere_each_line_has_time_level_job_and_message(capsys):
    with job_named(verb="pretrain"), job_named(run="mine"):
        warn("no pairs – 2 of 3")
        with Progress("pretrain", total=0) as progress:
            progress.advance(0, step=3)
    say("later")
    first, second, last = lines(capsys.readouterr().err)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(first.pop("time")))
    assert first == {"level": "warning", "verb": "pretrain", "run": "mine", "message": "no pairs – 2 of 3"}
    assert {key: second[key] for key in ("level", "verb", "run", "step", "progress")} == {
        "level": "info", "verb": "pretrain", "run": "mine", "step": 3, "progress": "pretrain",
    }  # fmt: skip
    assert set(last) == {"time", "level", "message"}


def test_a_job_of_ray_is_named(capsys, monkeypatch):
    config = {"runtime_env": {}, "metadata": {"job_submission_id": "raysubmit_1"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(config))
    log_lines._ray_job.cache_clear()
    say("here")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": 3}')
    log_lines._ray_job.cache_clear()
    say("elsewhere")
    log_lines._ray_job.cache_clear()
    here, elsewhere = lines(capsys.readouterr().err)
    assert here["ray_job"] == "raysubmit_1"
    assert "ray_job" not in elsewhere


def test_what_modules_log_and_python_warns_of_is_json_within_the_block_alone(capsys):
    before = warnings.showwarning
    log, service = logging.getLogger("vetdino.platform.some"), logging.getLogger(log_lines.SERVICE)
    with warnings.catch_warnings(), warnings_as_lines():
        warnings.simplefilter("always")
        log.warning("%s is damaged", "it")
        service.warning("has a handler of its own")
        warnings.warn("old checkpoint", RuntimeWarning, stacklevel=1)
    assert warnings.showwarning is before
    log.warning("after")
    first, second = lines(capsys.readouterr().err.replace("after\n", ""))
    assert (first["level"], first["message"]) == ("warning", "it is damaged")
    assert "RuntimeWarning: old checkpoint" in str(second["message"])


def test_an_object_gives_its_keys_and_an_error_its_type_alone():
    def line(message: str, error: Exception | None = None) -> dict[str, object]:
        info = (type(error), error, None) if error else None
        record = logging.LogRecord("vetdino.service", logging.ERROR, "", 0, message, (), info)
        return json.loads(JsonLines().format(record))

    assert line('{"status": 200}')["status"] == 200
    assert line("{no object")["message"] == "{no object"
    failed = line("it failed", ValueError("patient Rex"))
    assert (failed["level"], failed["message"], failed["error"]) == ("error", "it failed", "ValueError")
    assert "Rex" not in json.dumps(failed)
