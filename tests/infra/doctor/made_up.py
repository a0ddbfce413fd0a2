"""Facts of machines that do not exist."""

from __future__ import annotations

from typing import Any

from vetdino.infra.doctor.facts import CudaFacts, GpuFacts, MachineFacts, RayFacts

GIB = 2**30

H200 = GpuFacts("NVIDIA H200", 141 * GIB, (9, 0))
V100 = GpuFacts("Tesla V100", 32 * GIB, (7, 0))

CUDA = {
    "cards": 2,
    "driver": "580.65.06",
    "driver_cuda": (13, 0),
    "torch_cuda": "13.0",
    "architectures": ("sm_80", "sm_90", "sm_100"),
}


def cuda(*gpus: GpuFacts, **changed: Any) -> CudaFacts:
    return CudaFacts(**(CUDA | {"gpus": gpus} | changed))


def machine(**changed: Any) -> MachineFacts:
    """A machine with two H200 on which nothing is wrong."""
    facts: dict[str, Any] = {
        "host": "gpu-1",
        "python": "3.11.7",
        "vetdino": "0.1.0",
        "packages": {"torch": "2.14.1", "ray": "2.60.0", "numpy": "2.4"},
        "cuda": cuda(H200, H200),
        "cores": 64,
        "usable_cores": 64.0,
        "memory": 512 * GIB,
        "memory_free": 400 * GIB,
        "shared_memory": (256 * GIB, 255 * GIB),
        "open_files": (65536, 65536),
        "ports": {7860: False, 6379: False},
        "ray": RayFacts(folder="/tmp/ray"),
        "clock": 1_795_000_000.0,
    }
    return MachineFacts(**(facts | changed))
