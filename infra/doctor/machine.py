"""Judgements of a machine itself: GPUs, cores, memory, limits, clock."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from .facts import CudaFacts, GpuFacts, MachineFacts
from .findings import GIB, Finding, size

LEAST_MEMORY, GOOD_MEMORY = 2 * GIB, 8 * GIB
"""Below the first torch and Ray do not start beside each other; the second is what the tutorials need."""

LEAST_SHARED = 256 * 2**20
"""Of /dev/shm. Docker gives 64 MiB, in which one batch of crops has no place."""

RAY_SHARE, RAY_MOST = 0.3, 10**10
"""Of the memory, and in bytes: what Ray wants free in /dev/shm, else it keeps its objects on the disk."""

LEAST_FILES, GOOD_FILES = 1024, 8192
"""Open files of a process: an index keeps 64 shards open in each loader, and Ray recommends the second."""

CORES_PER_GPU = 4
"""Fewer cores for each GPU hardly feed it: decoding and crops are the CPU's work."""

FIRST_YEAR = 2026
"""Clocks before it are wrong: vetdino's dependencies are younger."""


def machine_findings(facts: MachineFacts) -> Iterator[Finding]:
    """All judgements of this module."""
    yield from gpus(facts)
    yield from cores(facts)
    yield from memory(facts)
    yield from shared_memory(facts)
    yield from open_files(facts)
    yield from clock(facts)


def gpus(facts: MachineFacts) -> Iterator[Finding]:
    """Does torch see the cards, and have its kernels what they need?"""
    if "GPUs" in facts.failures:
        return
    cuda = facts.cuda
    if cuda is None:
        yield Finding("ok", "GPUs: no card of NVIDIA; networks compute on the CPU")
    elif not cuda.gpus:
        yield _unseen(cuda, facts.packages.get("torch", ""))
    else:
        yield from _seen(cuda)


def _unseen(cuda: CudaFacts, torch: str) -> Finding:
    """Why torch sees no GPU, from the ground up."""
    cards = f"GPUs: {cuda.cards} card{'s' * (cuda.cards != 1)} of NVIDIA, "
    if not cuda.cards:
        cards = "GPUs: a driver of NVIDIA, "
    if cuda.driver_cuda is None:
        return Finding(
            "problem",
            f"{cards}but no driver (libcuda.so.1)",
            "install NVIDIA's driver; in a container start it with `--gpus all` and the NVIDIA container toolkit",
        )
    if not torch:
        return Finding("problem", f"{cards}but torch is not installed", "pip install torch")
    if cuda.torch_cuda is None:
        newest = "".join(map(str, cuda.driver_cuda))
        return Finding(
            "problem",
            f"{cards}but torch {torch} "
            + (f"cannot be imported ({cuda.error})" if cuda.error else "is one without CUDA"),
            f"pip install torch --index-url https://download.pytorch.org/whl/cuNNN with NNN at most {newest} (see "
            "pytorch.org)",
        )
    if cuda.driver_cuda < (_major(cuda.torch_cuda), 0):
        runs = ".".join(map(str, cuda.driver_cuda))
        return Finding(
            "problem",
            f"{cards}but their driver {cuda.driver} runs CUDA {runs} at most, and torch {torch} was built for CUDA "
            f"{cuda.torch_cuda}",
            f"install a newer driver, or a torch for CUDA {cuda.driver_cuda[0]} (see pytorch.org)",
        )
    if cuda.visible is not None and cuda.visible.strip() in ("", "-1", "NoDevFiles"):
        return Finding(
            "warning",
            f"{cards}all hidden by CUDA_VISIBLE_DEVICES={cuda.visible!r}",
            "unset it to compute on them",
        )
    return Finding(
        "problem",
        f"{cards}but torch {torch} does not see them ({cuda.error or 'it says no reason'})",
        "see whether `nvidia-smi` does; a container needs `--gpus all`, a driver that was updated a restart",
    )


def _seen(cuda: CudaFacts) -> Iterator[Finding]:
    kinds = dict.fromkeys(cuda.gpus)
    listed = ", ".join(f"{cuda.gpus.count(gpu)} x {gpu.name} ({size(gpu.memory)})" for gpu in kinds)
    runs = ".".join(map(str, cuda.driver_cuda or ()))
    yield Finding(
        "ok",
        f"GPUs: {listed}; driver {cuda.driver or 'unknown'} runs CUDA {runs}, torch has {cuda.torch_cuda}",
    )
    if len(cuda.gpus) < cuda.cards and not cuda.visible:
        yield Finding(
            "warning",
            f"GPUs: torch sees {len(cuda.gpus)} of {cuda.cards} cards",
            "see `nvidia-smi` for the others",
        )
    for gpu in kinds:
        name = f"{gpu.name} (sm_{gpu.capability[0]}{gpu.capability[1]})"
        if not has_kernels(gpu, cuda.architectures):
            yield Finding(
                "problem",
                f"GPUs: this torch has no kernels for {name}, only {' '.join(cuda.architectures)}",
                "install a torch that supports it (see pytorch.org)",
            )
        elif gpu.capability < (8, 0):
            yield Finding("warning", f"GPUs: {name} has no bfloat16", "train with --optim.precision float32")
    if len(kinds) > 1:
        yield Finding(
            "warning",
            "GPUs: of several kinds; each step waits for the slowest, and the smallest memory bounds all",
            "choose one kind with CUDA_VISIBLE_DEVICES",
        )


def has_kernels(gpu: GpuFacts, architectures: tuple[str, ...]) -> bool:
    """Whether kernels for these run on a GPU: binaries within its major version, PTX (`compute_`) on later ones, too.

    >>> h200 = GpuFacts("H200", 0, (9, 0))
    >>> has_kernels(h200, ("sm_80", "sm_90")), has_kernels(h200, ("sm_80", "compute_80")), has_kernels(h200, ("sm_80",))
    (True, True, False)
    """
    for text in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", text)
        if match is None:
            return True  # a kind of name that is not known here
        built = int(match[2]), int(match[3])
        if built <= gpu.capability and (match[1] == "compute" or built[0] == gpu.capability[0]):
            return True
    return not architectures


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def cores(facts: MachineFacts) -> Iterator[Finding]:
    """Cores, and those that a container or an affinity leaves."""
    if facts.cores is None or facts.usable_cores is None:
        return
    usable = facts.usable_cores
    gpus = len(facts.cuda.gpus) if facts.cuda else 0
    if usable < facts.cores:
        yield Finding(
            "warning",
            f"cores: {usable:g} of {facts.cores} (affinity, or the container's limit); commands count {facts.cores}",
            f"raise the limit, or give --workers {max(1, int(usable))} to ingest and `ray start --num-cpus "
            f"{max(1, int(usable))}`",
        )
    else:
        yield Finding("ok", f"cores: {facts.cores}")
    if usable < CORES_PER_GPU * gpus:
        yield Finding(
            "warning",
            f"cores: {usable:g} for {gpus} GPU{'s' * (gpus > 1)}, which will wait for their crops",
            f"give the machine {CORES_PER_GPU * gpus} or more; `vetdino plan` says how many a recipe needs",
        )


def memory(facts: MachineFacts) -> Iterator[Finding]:
    """The machine's memory, the container's limit, and what is free of it."""
    if facts.memory is None:
        return
    usable = min(facts.memory, facts.memory_limit or facts.memory)
    what = f"memory: {size(usable)}"
    if facts.memory_limit is not None:
        what += f" (the container's limit; the machine has {size(facts.memory)})"
    if usable < LEAST_MEMORY:
        yield Finding("problem", what, "give it 8 GiB or more")
    elif usable < GOOD_MEMORY * 15 // 16:  # the kernel keeps some of 8 GiB
        yield Finding("warning", what, "8 GiB is what the tutorials need; lower --batch and --workers")
    else:
        yield Finding("ok", what)
    if facts.memory_free is not None and facts.memory_free < 0.05 * facts.memory:
        # Above 95 % Ray ends the workers that use most.
        yield Finding(
            "warning",
            f"memory: {size(facts.memory_free)} of {size(facts.memory)} is free, and Ray ends workers at 95 % in use",
            "end other programs",
        )


def shared_memory(facts: MachineFacts) -> Iterator[Finding]:
    """/dev/shm, through which loaders hand their batches over and Ray its objects."""
    if facts.shared_memory is None:
        return
    total, free = facts.shared_memory
    usable = min(facts.memory or 2**60, facts.memory_limit or 2**60)
    wanted = int(min(RAY_SHARE * usable, RAY_MOST))
    what = f"shared memory: {size(free)} free of {size(total)} in /dev/shm"
    mend = (
        f"start the container with `--shm-size {-(-wanted // GIB)}g` (Kubernetes: an emptyDir of medium Memory there)"
        if total < wanted
        else "remove what other programs left there"
    )
    if free < LEAST_SHARED:
        yield Finding("problem", f"{what}: loaders end with a bus error", mend)
    elif free < wanted:
        yield Finding("warning", f"{what}: below {size(wanted)} Ray keeps its objects on the disk", mend)
    else:
        yield Finding("ok", what)


def open_files(facts: MachineFacts) -> Iterator[Finding]:
    """How many files a process may open; Ray raises the soft limit to the hard one by itself."""
    if facts.open_files is None:
        return
    soft, hard = (float("inf") if limit < 0 else limit for limit in facts.open_files)
    what = f"open files: {soft:g} a process" + (f" (hard limit {hard:g})" if hard != soft else "")
    mend = f"`ulimit -n {GOOD_FILES}`" if hard >= GOOD_FILES else "raise it in /etc/security/limits.conf"
    if soft < LEAST_FILES:
        yield Finding("problem", what, mend)
    elif soft < GOOD_FILES and hard < GOOD_FILES:
        yield Finding("warning", f"{what}, Ray recommends {GOOD_FILES}", mend)
    else:
        yield Finding("ok", what)


def clock(facts: MachineFacts) -> Iterator[Finding]:
    """The year; there is nothing else that one machine could be compared with, but its disks."""
    if facts.clock is None:
        return
    now = datetime.fromtimestamp(facts.clock, UTC)
    if now.year < FIRST_YEAR:
        mend = "set it (NTP: `timedatectl set-ntp true`); certificates and S3 refuse a wrong one"
        yield Finding("problem", f"clock: {now:%Y-%m-%d %H:%M} UTC", mend)
    else:
        yield Finding("ok", f"clock: {now:%Y-%m-%d %H:%M:%S} UTC")
