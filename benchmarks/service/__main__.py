"""`python -m benchmarks.service`: the service under load, as a table and as JSON.

A process of its own serves the shipped backbone on 127.0.0.1; studies are generated. Closed loop: so many
callers, each sending a study as soon as the last one is answered. Open loop: studies at a fixed rate, whether or not
the service keeps up, each timed from when it was due. Nothing is retried: a 503 is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np

import vetdino

ROOT = Path(vetdino.__file__).parent
PATH = "/v1/embed?level=study"

Send = Callable[[float], Awaitable[None]]
"""Sends one study that was due at a time of the loop's clock."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What one load did. p50, p99: seconds of answered studies; memory: MiB of the service and its decoders, after."""

    load: str
    seconds: float
    studies_per_s: float
    p50: float
    p99: float
    refused: int
    errors: int
    memory: float


def studies(folder: Path, count: int, side: int) -> list[list[bytes]]:
    """Generated studies, each a list of DICOM files."""
    archive = vetdino.phantom(folder / "archive", studies=count, side=side)
    found: dict[Path, list[bytes]] = {}
    for path in sorted((archive / "dicom").rglob("*.dcm")):
        found.setdefault(path.parent, []).append(path.read_bytes())
    return list(found.values())


@contextmanager
def service() -> Iterator[tuple[str, int]]:
    """(URL, process id) of a service that is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vetdino", "serve", "--backbones", str(vetdino.SHIPPED)]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--limits.concurrency", "1000"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            if process.poll() is not None:
                raise RuntimeError("the service did not start")
            try:
                if httpx.get(f"{url}/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def memory_mib(process: int) -> float:
    """Resident memory of a process and of all below it, in MiB."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(status.parent.name))
    total, waiting = 0, [process]
    while waiting:
        number = waiting.pop()
        waiting += children.get(number, [])
        try:
            pages = int(Path(f"/proc/{number}/statm").read_text().split()[1])
        except OSError:
            continue
        total += pages * os.sysconf("SC_PAGE_SIZE")
    return total / 2**20


async def closed_loop(send: Send, callers: int, seconds: float) -> None:
    """So many callers for so long, each with one study at a time."""
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while time.perf_counter() < end:
            await send(time.perf_counter())

    await asyncio.gather(*(caller() for _ in range(callers)))


async def open_loop(send: Send, rate: float, seconds: float) -> None:
    """`rate` studies a second for so long, none waiting for another."""
    began = time.perf_counter()
    running = []
    for number in range(int(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        running.append(asyncio.create_task(send(due)))
    await asyncio.gather(*running)


def measure(
    url: str, process: int, name: str, bodies: list[list[bytes]], load: Callable[[Send], Awaitable[None]]
) -> LoadResult:
    """Runs one load and counts what came of it."""
    times: list[float] = []
    statuses: Counter[int] = Counter()

    async def run() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:

            async def send(due: float) -> None:
                files = bodies[sum(statuses.values()) % len(bodies)]
                try:
                    answer = await http.post(PATH, files=[("files", ("file", file)) for file in files])
                except httpx.TransportError:
                    statuses[0] += 1
                    return
                statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    times.append(time.perf_counter() - due)

            await load(send)

    began = time.perf_counter()
    asyncio.run(run())
    seconds = time.perf_counter() - began
    refused = statuses[503] + statuses[429]
    return LoadResult(
        load=name,
        seconds=round(seconds, 1),
        studies_per_s=round(len(times) / seconds, 1),
        p50=round(float(np.percentile(times, 50)), 3) if times else float("nan"),
        p99=round(float(np.percentile(times, 99)), 3) if times else float("nan"),
        refused=refused,
        errors=sum(statuses.values()) - statuses[200] - refused,
        memory=round(memory_mib(process), 0),
    )


def table(results: list[LoadResult]) -> str:
    """The results as Markdown."""
    names = list(asdict(results[0]))
    rows = [[str(value) for value in asdict(result).values()] for result in results]
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: list[str] | None = None) -> list[LoadResult]:
    """Runs all loads; the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--callers", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument(
        "--rates", type=float, nargs="*", default=[2.0, 5.0], help="studies a second, open loop"
    )
    parser.add_argument("--studies", type=int, default=4)
    parser.add_argument(
        "--side", type=int, default=512, help="long side of a generated radiograph, in pixels"
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    chosen = parser.parse_args(arguments)
    results = []
    with tempfile.TemporaryDirectory() as folder, service() as (url, process):
        bodies = studies(Path(folder), chosen.studies, chosen.side)
        loads: list[tuple[str, Callable[[Send], Awaitable[None]]]] = [
            (f"closed, {n} callers", lambda send, n=n: closed_loop(send, n, chosen.seconds))
            for n in chosen.callers
        ]
        loads += [
            (f"open, {rate:g}/s", lambda send, rate=rate: open_loop(send, rate, chosen.seconds))
            for rate in chosen.rates
        ]
        for name, load in loads:
            results.append(measure(url, process, name, bodies, load))
            print(results[-1], file=sys.stderr, flush=True)
    print(table(results))
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    return results


if __name__ == "__main__":
    main()
