"""Dynamic batching: what waits together goes in one pass, each gets its own answer, and too much is refused at once."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.serving.engine.batching import Batcher
from vetdino.serving.engine.errors import RefusedError


@pytest.fixture(scope="module")
def thread():
    with ThreadPoolExecutor(1) as thread:
        yield thread


def batcher(thread, passes, most=4, queue=100, run=None, wait_s=0.01):
    def double(items):
        passes.append(list(items))
        return [2 * item for item in items]

    return Batcher(run or double, thread, most=most, wait_s=wait_s, queue=queue)


def test_requests_within_a_moment_share_a_pass(thread):
    passes = []

    async def requests():
        shared = batcher(thread, passes)
        return await asyncio.gather(*(shared.submit([n], 5) for n in range(4)))

    assert asyncio.run(requests()) == [[0], [2], [4], [6]]
    assert passes == [[0, 1, 2, 3]]


def test_a_full_batch_waits_for_nobody(thread):
    passes = []

    async def requests():
        began = time.perf_counter()
        await batcher(thread, passes, wait_s=30).submit([1, 2, 3, 4], 20)
        return time.perf_counter() - began

    assert asyncio.run(requests()) < 10


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(), min_size=1, max_size=7), max_size=12), st.integers(1, 6))
def test_everybody_gets_their_own_answers_and_no_pass_is_larger_than_allowed(requests, most):
    passes = []

    async def run():
        with ThreadPoolExecutor(1) as thread:
            shared = batcher(thread, passes, most=most, wait_s=0.001)
            return await asyncio.gather(*(shared.submit(items, 5) for items in requests))

    assert asyncio.run(run()) == [[2 * item for item in items] for items in requests]
    assert all(len(items) <= most for items in passes)
    assert sum(map(len, passes)) == sum(map(len, requests))


def test_an_error_of_one_item_is_its_own(thread):
    def some(items):
        return [ValueError("odd") if item % 2 else item for item in items]

    async def requests():
        shared = batcher(thread, [], run=some)
        return await asyncio.gather(*(shared.submit([n], 5) for n in range(3)), return_exceptions=True)

    first, second, third = asyncio.run(requests())
    assert (first, third) == ([0], [2])
    assert isinstance(second, ValueError)


def test_a_pass_that_fails_fails_for_all_in_it_and_the_next_one_runs(thread):
    def broken(items):
        if 13 in items:
            raise RuntimeError("gone")
        return items

    async def requests():
        shared = batcher(thread, [], run=broken, most=2)
        return await asyncio.gather(*(shared.submit([n], 5) for n in (13, 1, 2)), return_exceptions=True)

    first, second, third = asyncio.run(requests())
    assert isinstance(first, RuntimeError)
    assert isinstance(second, RuntimeError)
    assert third == [2]


def test_more_than_the_queue_holds_is_refused_at_once_and_the_rest_is_answered():
    free = threading.Event()

    def slow(items):
        assert free.wait(20)
        return items

    async def requests():
        with ThreadPoolExecutor(1) as thread:
            shared = batcher(thread, [], run=slow, most=1, queue=3, wait_s=0.001)
            running = [asyncio.create_task(shared.submit([0], 20))]
            await asyncio.sleep(0.1)
            running += [asyncio.create_task(shared.submit([n], 20)) for n in range(1, 4)]
            await asyncio.sleep(0)
            assert shared.waiting == 3
            with pytest.raises(RefusedError) as refusal:
                await shared.submit([9], 20)
            free.set()
            return refusal.value, await asyncio.gather(*running)

    refusal, answers = asyncio.run(requests())
    assert (refusal.status, refusal.limit, refusal.retry_after) == (503, "queue", 1)
    assert answers == [[0], [1], [2], [3]]


def test_who_waits_too_long_is_told_so_and_costs_no_pass():
    free, passes = threading.Event(), []

    def slow(items):
        passes.append(items)
        assert free.wait(20)
        return items

    async def requests():
        with ThreadPoolExecutor(1) as thread:
            shared = batcher(thread, [], run=slow, most=1, wait_s=0.001)
            first = asyncio.create_task(shared.submit([1], 20))
            await asyncio.sleep(0.05)
            with pytest.raises(RefusedError) as refusal:
                await shared.submit([2], 0.1)
            free.set()
            await first
            await shared.submit([3], 20)
            return refusal.value

    assert (asyncio.run(requests()).status, passes) == (503, [[1], [3]])
