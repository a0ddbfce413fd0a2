"""Memory of one worker by ZeRO stage, and the bytes that it sends in a step.

As DeepSpeed 0.19 does it with float32 weights and its default settings: under ZeRO 1 to 3 AdamW steps a float32 copy
of the worker's part, gradients are gathered in a bucket of 5e8 numbers, and weights that ZeRO 3 has gathered stay until
the end of the pass, since less than `max_reuse_distance` (1e9 numbers) lies before their next use.
"""

from __future__ import annotations

from dataclasses import dataclass

from .step_work import StepWork

NUMBER = 4
"""Bytes of a float32."""

BUCKET = 500_000_000 * NUMBER
"""Bytes of DeepSpeed's `reduce_bucket_size`."""

FRAGMENTS = 0.1
"""What PyTorch's allocator loses between tensors, as a share of the activations."""


@dataclass(frozen=True, slots=True)
class WorkerMemory:
    """Bytes of one worker by what they are for."""

    weights: int
    """The student's, with the copy that AdamW steps."""
    gradients: int
    """With the bucket that they are summed in."""
    moments: int
    teacher: int
    """With its centers."""
    activations: int
    """With what the allocator loses."""
    reserved: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.moments + self.teacher + self.activations + self.reserved


def worker_memory(work: StepWork, zero: int, workers: int, reserved: int) -> WorkerMemory:
    """Bytes of one worker under a ZeRO stage."""
    whole = NUMBER * work.student
    part = -(-whole // workers)
    bucket = BUCKET if zero else 0
    return WorkerMemory(
        weights=whole + (0, part, part, 2 * part)[zero],
        gradients=(whole, whole + part, part, part)[zero] + bucket,
        moments=2 * (part if zero else whole),
        teacher=whole + NUMBER * work.centers,
        activations=int(work.activation_bytes * (1 + FRAGMENTS)),
        reserved=reserved,
    )


def sent_bytes(student: int, zero: int, workers: int, micro_batches: int) -> int:
    """Bytes that a worker sends in a step, and receives; all gradients and weights are float32.

    A ring sends (workers - 1) / workers of the whole in a reduce-scatter or an all-gather, twice that in an all-reduce.
    Gradients: an all-reduce, under ZeRO 2 for each micro-batch, under ZeRO 3 a reduce-scatter for each. Weights: one
    all-gather after the update under ZeRO 1 and 2; under ZeRO 3 one for the teacher's EMA and one for the passes, but
    with several micro-batches four for each: DeepSpeed 0.19 then gathers every module anew (`benchmarks.network`).
    """
    gathers = 1 if micro_batches == 1 else 4
    passes = (2, 2 + 1, 2 * micro_batches + 1, (1 + gathers) * micro_batches + 1)[zero]
    return NUMBER * student * passes * (workers - 1) // workers


def checkpoint_bytes(work: StepWork) -> int:
    """Bytes of a checkpoint: the student with two moments, the teacher with its centers, all float32."""
    return NUMBER * (4 * work.student + work.centers)
