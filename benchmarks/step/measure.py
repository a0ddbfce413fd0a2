"""Seconds of contestants in turns, peak memory, and the time of each part of a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

PARTS = {
    "attn": "attention",
    "mlp": "mlp",
    "head": "head",
    "patch_head": "head",
    "backbone": "norms, embedding",
}
"""Name of a module -> the part of the step that it is; the innermost one counts."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """Seconds of one contestant in each round."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]
    """Processor time of this process; other processes disturb it less than wall time."""

    @property
    def summary(self) -> dict[str, float]:
        """Minimum and median, as written to the results."""
        return {
            "wall_min": min(self.wall),
            "wall_median": median(self.wall),
            "cpu_min": min(self.cpu),
            "cpu_median": median(self.cpu),
        }


def in_turns(
    contestants: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, Seconds]:
    """Times all contestants in turns, ABCABC…, after one warm-up round."""
    clocks: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, contestant in contestants.items():
            _wait(device)
            wall, cpu = time.perf_counter(), time.process_time()
            contestant()
            _wait(device)
            if number:
                clocks[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: Seconds(*zip(*times, strict=True)) for name, times in clocks.items()}


def matmul(precision: str, device: torch.device) -> tuple[Callable[[], object], float]:
    """A large square matrix product and its floating-point operations: the speed limit of the machine."""
    side = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(side, side, device=device).to(getattr(torch, precision)) for _ in range(2))
    repeats = 10 if device.type == "cuda" else 2

    def run() -> None:
        for _ in range(repeats):
            torch.mm(left, right)

    return run, 2.0 * side**3 * repeats


def peak_memory(device: torch.device) -> int:
    """Bytes: peak resident memory of this process, or peak allocation on the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not getrusage: its peak includes the memory of the parent process.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def time_by_part(
    step: Callable[[], object], learners: list[nn.Module], device: torch.device
) -> dict[str, float]:
    """Seconds of one step by part, the longest first.

    An operation belongs to the innermost part around it. One of the backward pass belongs to the part of the
    forward operation that it differentiates: the two share the number that autograd gave them.
    """
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with _parts_marked(learners), profile(activities=activities) as profiler:
        step()
        _wait(device)
    # A kernel of the GPU is counted with the operation that started it.
    cpu_events = [event for event in profiler.events() if event.device_type == DeviceType.CPU]
    events = sorted(cpu_events, key=lambda event: event.time_range.start)
    part_of_number: dict[int, str] = {}
    for event in events:
        if event.sequence_nr >= 0 and _backward_number(event) is None and (part := _enclosing(event)):
            # An event carries the number that comes next: of those with one number, the last made the node.
            part_of_number[event.sequence_nr] = part
    seconds: dict[str, float] = {}
    for event in events:
        spent = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        number = _backward_number(event)
        part = _enclosing(event) or "other" if number is None else part_of_number.get(number, "backward")
        seconds[part] = seconds.get(part, 0.0) + spent / 1e6
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def _enclosing(event: torch.autograd.profiler_util.FunctionEvent) -> str | None:
    while event is not None:
        if event.name.startswith("part/"):
            return event.name.removeprefix("part/")
        event = event.cpu_parent
    return None


def _backward_number(event: torch.autograd.profiler_util.FunctionEvent) -> int | None:
    """The number of the autograd node that an event runs in; None outside the backward pass."""
    while event is not None:
        if event.name.startswith("autograd::engine::evaluate_function"):
            return event.sequence_nr
        event = event.cpu_parent
    return None


@contextmanager
def _parts_marked(learners: list[nn.Module]) -> Iterator[None]:
    """Within it, the profiler sees where each part of the modules begins and ends."""
    handles, open_marks = [], []

    def opened(part: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            open_marks.append(record_function(f"part/{part}"))
            open_marks[-1].__enter__()

        return hook

    def closed(*_: object) -> None:
        open_marks.pop().__exit__(None, None, None)

    for learner in learners:
        for name, module in learner.named_modules():
            part = PARTS.get(name.rsplit(".", 1)[-1])
            if part:
                handles.append(module.register_forward_pre_hook(opened(part)))
                handles.append(module.register_forward_hook(closed))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
