"""What needs no Ray: tests/pretrain/test_job.py and tests/downstream/test_finetune.py run the rest on a real one."""

from __future__ import annotations

import json
import threading

import pytest

from vetdino.platform.core.errors import TrainingError
from vetdino.platform.training.cluster import FAILURE, Crew, _human, told_in, watched


def test_no_status_yet_says_nothing(tmp_path):
    assert told_in(tmp_path / "status.json") == {}


def test_a_half_written_status_says_nothing(tmp_path):
    (tmp_path / "status.json").write_text('{"step": 1')
    assert told_in(tmp_path / "status.json") == {}


def test_a_status_is_told_meanwhile_and_its_last_state_at_the_end(tmp_path):
    status, seen, met = tmp_path / "status.json", [], threading.Event()

    def tell(told):
        seen.append(told.get("step"))
        if told.get("step") == 1:
            met.set()

    status.write_text(json.dumps({"step": 1}))
    with watched(status, tell):
        assert met.wait(20)
        status.write_text(json.dumps({"step": 7}))
    assert (seen[0], seen[-1]) == (1, 7)
    assert not [thread for thread in threading.enumerate() if "watch" in thread.name]


def test_a_watch_ends_with_an_error_too(tmp_path):
    before = threading.active_count()
    with pytest.raises(KeyError), watched(tmp_path / "status.json", lambda told: None):
        raise KeyError
    assert threading.active_count() == before


def test_workers_lost_too_often_are_told_with_their_last_words_and_what_to_do(tmp_path):
    lost = RuntimeError("many lines of Ray\nActor died: killed by signal 9")
    told = _human(lost, Crew(restarts=3), tmp_path / FAILURE, lambda: "run again")
    assert str(told) == "the workers failed more than 3 times (Actor died: killed by signal 9); run again"


def test_what_a_worker_left_for_people_is_told_instead(tmp_path):
    (tmp_path / FAILURE).write_text("study 12: view 0 is no picture")
    told = _human(RuntimeError("Ray's own words"), Crew(), tmp_path / FAILURE, lambda: "run again")
    assert isinstance(told, TrainingError)
    assert str(told) == "study 12: view 0 is no picture"
