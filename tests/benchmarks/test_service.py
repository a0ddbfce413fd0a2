"""The load on the service: everything that is sent is counted, and an open loop does not wait."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from benchmarks.service.__main__ import closed_loop, main, open_loop


def test_an_open_loop_sends_at_its_rate_whatever_the_answers_take():
    due = []

    async def send(at):
        due.append(at)
        await asyncio.sleep(0.5)

    began = time.perf_counter()
    asyncio.run(open_loop(send, rate=20, seconds=0.5))
    assert len(due) == 10
    assert due[-1] - due[0] == pytest.approx(0.45)
    assert time.perf_counter() - began < 5


def test_a_closed_loop_has_no_more_requests_than_callers():
    running, most = 0, 0

    async def send(_):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    asyncio.run(closed_loop(send, callers=3, seconds=0.1))
    assert most == 3


@pytest.mark.slow
def test_a_short_run_counts_all_studies(tmp_path):
    out = tmp_path / "load.json"
    options = ["--seconds", "1", "--callers", "2", "--rates", "2", "--studies", "1", "--side", "64"]
    closed, opened = main([*options, "--json", str(out)])
    assert closed.studies_per_s > 0
    assert (closed.errors, opened.errors, opened.refused) == (0, 0, 0)
    assert 0 < opened.p50 <= opened.p99
    assert [one["load"] for one in json.loads(out.read_text())] == ["closed, 2 callers", "open, 2/s"]
