"""Dynamic batching: what several requests ask for within a few milliseconds goes through the network in one pass."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

from .errors import RefusedError, overloaded

Item = TypeVar("Item")
Result = TypeVar("Result")

OnBatch = Callable[[int, float], None]
"""Called after each pass with its number of items and its seconds."""


class Batcher(Generic[Item, Result]):
    """Collects items of all requests and runs a function on up to `most` of them, one pass at a time.

    run: called in the executor with a list of items, and gives as many results; one that is an exception is raised to
    whoever submitted that item. A new item waits `wait_s` for others, a full batch for nothing. At most `queue` items
    wait.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Result | Exception]],
        executor: Executor,
        *,
        most: int,
        wait_s: float,
        queue: int,
        on_batch: OnBatch = lambda size, seconds: None,
    ) -> None:
        self._run, self._executor = run, executor
        self.most, self.wait_s, self.queue, self.on_batch = most, wait_s, queue, on_batch
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._drain: asyncio.Task[None] | None = None
        self._full: asyncio.Event | None = None

    @property
    def waiting(self) -> int:
        """Items that no pass has taken yet."""
        return len(self._waiting)

    async def submit(self, items: Sequence[Item], timeout_s: float) -> list[Result]:
        """A result for each item, in order.

        Raises RefusedError with status 503 at once where too many wait, and after `timeout_s`.
        """
        if self.waiting + len(items) > self.queue:
            raise overloaded(f"{self.waiting} views wait for the backbone", "queue")
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in items]
        self._waiting.extend(zip(items, futures, strict=True))
        if self._drain is None or self._drain.done():
            self._full = asyncio.Event()
            self._drain = loop.create_task(self._drain_all())
        if self.waiting >= self.most and self._full is not None:
            self._full.set()
        try:
            async with asyncio.timeout(timeout_s):
                return list(await asyncio.gather(*futures))
        except TimeoutError:
            raise RefusedError(
                503, "Timeout", f"no answer of the backbone within {timeout_s:g} s", "inference_s", 5
            ) from None
        finally:
            for future in futures:  # whoever asked is gone: no pass for the rest
                future.cancel()

    async def _drain_all(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._full is not None
        while self._waiting:
            if self.waiting < self.most:
                self._full.clear()
                try:
                    async with asyncio.timeout(self.wait_s):
                        await self._full.wait()
                except TimeoutError:
                    pass
            batch = self._next_batch()
            if not batch:
                continue
            began = time.perf_counter()
            try:
                results = await loop.run_in_executor(self._executor, self._run, [item for item, _ in batch])
            except Exception as error:
                results = [error] * len(batch)
            self.on_batch(len(batch), time.perf_counter() - began)
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self.most:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch
