"""What is measured, a row each. Each row runs in a process of its own, which prints its figures as they come."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.plan.engine import engine_step, one_worker, random_batch
from benchmarks.step.measure import matmul, peak_memory
from vetdino.pretrain.batches.batch import CropBatch
from vetdino.pretrain.batches.config import CropConfig
from vetdino.pretrain.batches.device_crops import crops_on_device
from vetdino.pretrain.config import PretrainConfig
from vetdino.pretrain.distillation.config import HeadConfig
from vetdino.pretrain.planning.hardware import GIB, GPUS, Hardware
from vetdino.pretrain.planning.memory import worker_memory
from vetdino.pretrain.planning.step_work import StepWork, step_work
from vetdino.pretrain.recipes import recipe

FULL = 0.92
"""Share of the GPU's memory that the prediction may fill: the allocator needs some."""

MULTIPLE = 8
"""Micro-batches are multiples of it, above it."""

CORES = len(os.sched_getaffinity(0))

TIMED = 20
"""Steps that are timed at most, after two that are not."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where and how large is measured. tiny: networks and data for a test of this benchmark, not for figures."""

    device: torch.device
    tiny: bool
    seconds: float
    """What a row may take; it measures for at most half of it."""
    studies: int = 0
    """Of a step; 0 takes as many as fit by the planner's prediction."""


Figures = dict[str, Any]
"""Columns of the table: rate, unit, ms, peak_share, memory_gib, predicted_gib, studies, note."""


# The machine ----------------------------------------------------------------------------------------------


def known_gpu(name: str, memory: int) -> Hardware | None:
    """The planner's GPU of a name as CUDA gives it; None where the planner does not know it.

    >>> [gpu.name for gpu in (known_gpu("NVIDIA H200", 0), known_gpu("NVIDIA A100-SXM4-40GB", 40 * GIB)) if gpu]
    ['h200', 'a100-40']
    """
    text = name.lower().replace(" ", "").replace("-", "")
    if "a100" in text:
        return GPUS["a100-40" if memory < 50 * GIB else "a100"]
    return next((gpu for key, gpu in GPUS.items() if key in text), None)


def matmul_speed(bench: Bench, precision: str = "bfloat16") -> float:
    """Floating-point operations a second of a large matrix product: the best of a few."""
    run, products = matmul(precision, bench.device)
    return products / min(_seconds(run, bench.device) for _ in range(5))


def peak(bench: Bench) -> tuple[float, str]:
    """Peak in bfloat16, and where it is from: the maker's data sheet, or a matrix product."""
    if bench.device.type == "cuda":
        properties = torch.cuda.get_device_properties(bench.device)
        gpu = known_gpu(properties.name, properties.total_memory)
        if gpu is not None and gpu.bfloat16:
            return gpu.bfloat16, "data sheet"
    return matmul_speed(bench), "measured product"


def product(bench: Bench) -> Iterator[Figures]:
    """A large matrix product: what this GPU reaches of its data sheet."""
    speed, (most, source) = matmul_speed(bench), peak(bench)
    yield {
        "rate": speed / 1e12,
        "unit": "TFLOP/s",
        "peak_share": speed / most if source == "data sheet" else None,
        "note": f"{source}: {most / 1e12:.3g} TFLOP/s" if source == "data sheet" else "no data sheet here",
    }


# Steps ----------------------------------------------------------------------------------------------------


def step_config(name: str, studies: int, bench: Bench, compiled: bool = False) -> PretrainConfig:
    """A recipe for one worker, all studies in one micro-batch, from random weights.

    Without stochastic depth: each block's rate would be compiled for itself, which takes minutes.
    """
    config = recipe(name)
    config = replace(config, backbone=replace(config.backbone, drop_path=0.0))
    optim = replace(config.optim, zero=0, precision="bfloat16", micro_batch=0, compile=compiled)
    config = replace(config, batch=studies, workers=1, optim=optim, start="")
    if not bench.tiny:
        return config
    return replace(
        config,
        backbone=replace(config.backbone, width=48, depth=2, heads=3, side=56),
        crops=CropConfig(global_side=56, local_side=28, locals_per_view=2),
        distill=replace(config.distill, head=HeadConfig(prototypes=64, hidden=32, bottleneck=16)),
    )


def predicted_bytes(work: StepWork, bench: Bench) -> int:
    """What the planner expects of one worker; on a CPU without Python and its libraries."""
    reserved = 3 * GIB // 2 if bench.device.type == "cuda" else 0
    return worker_memory(work, 0, 1, reserved).total


def largest_batch(config: Callable[[int], PretrainConfig], memory: int, bench: Bench) -> int:
    """Most studies of which the planner says that they fit, up to the recipe's batch. config: of so many studies."""
    few, more = (predicted_bytes(step_work(config(n), bench.device.type), bench) for n in (4, 8))
    room = int(4 + max(0.0, FULL * memory - few) / max(1.0, (more - few) / 4))
    most = min(room, recipe(config(4).recipe).batch)
    return max(1, most // MULTIPLE * MULTIPLE if most > MULTIPLE else most)


def training_step(bench: Bench, name: str, compiled: bool) -> Iterator[Figures]:
    """Studies a second, share of the peak and memory of the step that trains, on crops that stay on the device.

    Raises TooManyStudiesError, with fewer to try in a new process: this one keeps much of what it has allocated.
    """
    config = partial(step_config, name, bench=bench, compiled=compiled)
    most_studies = 4 if bench.tiny else largest_batch(config, _memory(bench), bench)
    studies = bench.studies or most_studies
    most, source = peak(bench)
    work = step_work(config(studies), bench.device.type)
    note = "" if source == "data sheet" else f"; peak: {source}"
    with one_worker(bench.device):
        before = peak_memory(bench.device)
        try:
            for count, seconds in _timed_steps(config(studies), bench):
                yield {
                    "rate": studies / seconds,
                    "unit": "studies/s",
                    "ms": 1000 * seconds,
                    "peak_share": work.flops / seconds / most,
                    "memory_gib": _used(bench, before) / GIB,
                    "predicted_gib": predicted_bytes(work, bench) / GIB,
                    "studies": studies,
                    "note": f"median of {count} steps{note}",
                }
        except torch.OutOfMemoryError as error:
            if studies == 1:
                raise
            raise TooManyStudiesError(studies) from error


class TooManyStudiesError(Exception):
    """A step whose studies do not fit into the memory."""

    def __init__(self, studies: int) -> None:
        super().__init__(f"{studies} studies do not fit")
        self.fewer = max(1, studies * 3 // 4 // MULTIPLE * MULTIPLE or studies // 2)


def _timed_steps(config: PretrainConfig, bench: Bench) -> Iterator[tuple[int, float]]:
    """How many steps were timed, and their median in seconds: after three, and at the end."""
    step = engine_step(config, TIMED + 2, bench.device)
    batch = random_batch(config).to(bench.device)
    until = time.monotonic() + bench.seconds
    for number in range(2):
        _seconds(partial(step, number, batch), bench.device)
    until = min(until, time.monotonic() + bench.seconds / 2)
    seconds: list[float] = []
    while len(seconds) < 3 or (len(seconds) < TIMED and time.monotonic() < until):
        seconds.append(_seconds(partial(step, len(seconds) + 2, batch), bench.device))
        if len(seconds) == 3:
            yield 3, median(seconds)
    yield len(seconds), median(seconds)


def _memory(bench: Bench) -> int:
    if bench.device.type == "cuda":
        return int(torch.cuda.get_device_properties(bench.device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _used(bench: Bench, before: int) -> int:
    """Most bytes in use: of a GPU what the allocator reserved and what lies outside it (context, libraries)."""
    if bench.device.type == "cpu":
        return peak_memory(bench.device) - before
    free, total = torch.cuda.mem_get_info()
    return torch.cuda.max_memory_reserved() + (total - free - torch.cuda.memory_reserved())


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of a call and of what it started on the device."""
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# Loader ---------------------------------------------------------------------------------------------------


def loader(bench: Bench) -> Iterator[Figures]:
    """Studies a second that loader processes hand over and the device cuts, then the same with the step behind them."""
    from benchmarks.loader.__main__ import write_data
    from vetdino.pretrain.batches.loader import CropDataset, crop_loader
    from vetdino.pretrain.batches.order import StepSampler, StudyOrder

    processes = 1 if bench.tiny else CORES
    config = step_config("multi_view_s14", 4 if bench.tiny else 128, bench)
    with tempfile.TemporaryDirectory() as folder, one_worker(bench.device):
        studies, side = (8, 96) if bench.tiny else (256, 512)
        write_data(Path(folder), studies, 2, side, 64 * 2**20, 0)
        grid = config.crops.global_side // config.patch_side
        dataset = CropDataset(
            [f"{folder}/shards"], config.crops, config.distill.masks, grid, 0, planned_only=True
        )
        order = StudyOrder(len(dataset), config.batch, 0)
        sampler = StepSampler(order, first=0, steps=2**31, rank=0, world=1)
        batches = iter(crop_loader(dataset, sampler, processes, pinned=bench.device.type == "cuda"))
        cut = lambda: crops_on_device(bench.device, next(batches), config.crops)
        alone = _loaded(cut, config, bench)
        figures = {"unit": "studies/s", "studies": config.batch}
        about = f"loader processes: {processes}, views of {side} px, cut on the device"
        yield figures | {"rate": alone, "note": f"without a step; {about}"}
        step, numbers = engine_step(config, 2**20, bench.device), itertools.count()
        stays = random_batch(config).to(bench.device)
        still = _loaded(lambda: (step(next(numbers), stays), stays)[1], config, bench)
        fed = _loaded(lambda: _fed(step, next(numbers), cut()), config, bench)
        yield figures | {
            "rate": alone,
            "note": f"{about}; the step of multi_view_s14 takes {still:.4g} studies/s of crops that stay, "
            f"{fed:.4g} of these: {fed / still:.0%}",
        }


def _fed(step: Callable[[int, CropBatch], None], number: int, batch: CropBatch) -> CropBatch:
    step(number, batch)
    return batch


def _loaded(work: Callable[[], CropBatch], config: PretrainConfig, bench: Bench) -> float:
    """Studies a second of repeated work, for a sixteenth of the row's time, after what was loaded ahead is used up."""
    ahead, least = (1, 0.5) if bench.tiny else (4 * CORES, bench.seconds / 16)
    until = time.perf_counter() + least
    while ahead and time.perf_counter() < until:
        work()
        ahead -= 1
    _wait(bench.device)
    began, count = time.perf_counter(), 0
    while count < 2 or time.perf_counter() - began < least:
        work()
        count += 1
    _wait(bench.device)
    return count * config.batch / (time.perf_counter() - began)


# Features -------------------------------------------------------------------------------------------------


def embed(bench: Bench, side: int) -> Iterator[Figures]:
    """Images a second of `vetdino embed` with a ViT-S/14: decoding, network, table."""
    from benchmarks.embed.__main__ import compare
    from vetdino.platform.measure.prefetch import MOST_THREADS

    args = argparse.Namespace(
        studies=4 if bench.tiny else 400,
        pixels=64 if bench.tiny else 512,
        network="tiny" if bench.tiny else "small",
        side=56 if bench.tiny else side,
        patch=14,
        batch=4 if bench.tiny else 128,
        shard_mb=8,
        rounds=1,
        threads=torch.get_num_threads(),
        decoders=min(MOST_THREADS, CORES),
        device=bench.device.type,
    )
    with tempfile.TemporaryDirectory() as folder:
        figures = compare(args, Path(folder))
    yield {
        "rate": figures["embed"]["images_a_second"],
        "unit": "images/s",
        "note": f"{args.decoders} threads decode {args.pixels} px; the network on decoded images: "
        f"{figures['loop']['images_a_second']:.4g}",
    }


def neighbors(bench: Bench) -> Iterator[Figures]:
    """Queries a second of the exact k-NN search, on the device and on the CPU; the rows must be the same."""
    from benchmarks.knn.__main__ import vectors
    from vetdino.platform.measure.neighbors import nearest

    train, test = (500, 20) if bench.tiny else (200_000, 10_000)
    bank_ND, queries_MD = vectors(train, 384, seed=1), vectors(test, 384, seed=2)
    nearest(bank_ND[:1000], queries_MD[:10], 10, bench.device.type)
    began = time.perf_counter()
    _, rows_MK = nearest(bank_ND, queries_MD, 20, bench.device.type)
    seconds = time.perf_counter() - began
    sample = slice(0, 100)
    _, expected_MK = nearest(bank_ND, queries_MD[sample], 20, "cpu")
    same = (rows_MK[sample] == expected_MK).all()
    yield {
        "rate": test / seconds,
        "unit": "queries/s",
        "note": f"20 of {train:,} vectors of 384; rows of {len(expected_MK)} queries as on the CPU: {same}",
    }


def work_of(name: str) -> Callable[[Bench], Iterator[Figures]]:
    """What measures a row."""
    kind, _, rest = name.partition(" ")
    if kind == "step":
        recipe_name, _, compiled = rest.partition(" ")
        return partial(training_step, name=recipe_name, compiled=bool(compiled))
    if kind == "embed":
        return partial(embed, side=int(rest))
    return {"matrix product": product, "loader": loader, "neighbors": neighbors}[name]


def run_row(name: str, device: str, tiny: bool, seconds: float, studies: int = 0) -> None:
    """Measure a row, printing the machine and its figures so far as a line of JSON each. Raises TooManyStudiesError."""
    bench = Bench(torch.device(device), tiny, seconds, studies)
    print(json.dumps({"machine": machine(bench)}), flush=True)
    torch.manual_seed(0)
    for figures in work_of(name)(bench):
        print(json.dumps(figures), flush=True)


def machine(bench: Bench) -> dict[str, Any]:
    """What is measured on. Raises RuntimeError, with CUDA's reason, where there is no GPU."""
    gpu = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else None
    return {"gpu": gpu, "cores": CORES, "torch": torch.__version__, "cuda": torch.version.cuda}
