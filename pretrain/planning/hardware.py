"""The GPUs that a plan knows, by their makers' data sheets, and this machine's CPU, measured."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from .config import HardwareName

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Hardware:
    """One worker's device."""

    name: HardwareName
    memory: int
    """Bytes that the driver shows."""
    bfloat16: float | None
    """Peak of dense matrix products in floating-point operations a second; None where there is no bfloat16."""
    float32: float
    """The same in float32, without TF32, as PyTorch computes by default."""
    bandwidth: float
    """Bytes a second between memory and processor."""
    link: float
    """Bytes a second that one GPU sends to others of its machine."""
    reserved: int = 3 * GIB // 2
    """Bytes that are used before the first tensor: CUDA's context, cuBLAS, NCCL; on a CPU Python and libraries."""

    @property
    def device_type(self) -> str:
        """`cpu` or `cuda`."""
        return "cpu" if self.name == "cpu" else "cuda"

    def peak(self, precision: str) -> float | None:
        """Peak of matrix products in this precision; None where the device has none."""
        return self.bfloat16 if precision == "bfloat16" else self.float32


GPUS = {
    gpu.name: gpu
    for gpu in (
        Hardware("a100-40", 40_960 * 2**20, 312e12, 19.5e12, 1.555e12, 300e9),
        Hardware("a100", 81_920 * 2**20, 312e12, 19.5e12, 2.039e12, 300e9),
        Hardware("h100", 81_559 * 2**20, 989e12, 67e12, 3.35e12, 450e9),
        Hardware("h200", 143_771 * 2**20, 989e12, 67e12, 4.8e12, 450e9),
        Hardware("l40s", 46_068 * 2**20, 362e12, 91.6e12, 0.864e12, 32e9),
        Hardware("rtx4090", 24_564 * 2**20, 165e12, 82.6e12, 1.008e12, 32e9),
        Hardware("v100", 32_768 * 2**20, None, 15.7e12, 0.9e12, 150e9),
    )
}
"""Data sheets of NVIDIA: dense products, SXM where there are both; link: NVLink one way, else PCIe 4.0 x16."""


def hardware(name: HardwareName, workers: int) -> Hardware:
    """The device of one of so many workers; for `cpu` a part of this machine, measured."""
    return this_machine(workers) if name == "cpu" else GPUS[name]


def this_machine(workers: int) -> Hardware:
    """One worker's part of this machine: memory, and the speed of matrix products and of copies with PyTorch's threads.

    As if nothing else ran on it.
    """
    import torch

    left, right = (torch.randn(1024, 1024) for _ in range(2))
    low = left.bfloat16(), right.bfloat16()
    source, target = torch.zeros(2**24), torch.zeros(2**24)
    product = 2 * 1024**3
    return Hardware(
        "cpu",
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // workers,
        bfloat16=product / _least_seconds(lambda: torch.mm(*low)) / workers,
        float32=product / _least_seconds(lambda: torch.mm(left, right)) / workers,
        bandwidth=2 * 2**26 / _least_seconds(lambda: target.copy_(source)) / workers,
        link=5e9,
        reserved=6 * GIB // 10,
    )


def _least_seconds(work: Callable[[], object]) -> float:
    """Seconds of processor time a thread, which other processes on the machine disturb less than wall time."""
    import torch

    seconds = []
    for _ in range(5):
        began = time.process_time()
        work()
        seconds.append((time.process_time() - began) / torch.get_num_threads())
    return min(seconds)
