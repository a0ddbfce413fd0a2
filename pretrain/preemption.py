"""Notices that machines will be taken away: all workers agree on the step after which a checkpoint is written."""

from __future__ import annotations

from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from ..platform.training.cluster import WorkerContext


class Preemption:
    """What the workers know of machines that will be taken away soon; all workers call its methods together.

    The greatest number that any of them knows is theirs one step later, so that nobody waits for it.
    """

    def __init__(self, worker: WorkerContext) -> None:
        self.worker = worker
        self.known = self._saved = 0
        self._group: dist.ProcessGroup | None = None
        self._pending: tuple[Tensor, dist.Work] | None = None
        if worker.world_size > 1 and worker.device.type != "cpu":
            # Between hosts, so that no device waits.
            self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))

    def is_due(self) -> bool:
        """Whether the step that ends now shall end with a checkpoint; called once after each step."""
        number = self.worker.preempted()
        if self.worker.world_size == 1:
            self.known = number
        else:
            self.wait()
            flag_1 = torch.tensor([number], dtype=torch.int32)
            work = dist.all_reduce(flag_1, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
            self._pending = flag_1, work
        return self.known > self._saved

    def wait(self) -> None:
        """Wait for the answer to the newest step's question."""
        if self._pending is not None:
            flag_1, work = self._pending
            work.wait()
            self.known, self._pending = int(flag_1), None

    def saved(self) -> None:
        """Note that a checkpoint was begun after the newest notice."""
        self._saved = self.known


def notice_text(machines: int, step: int) -> str:
    """The warning that is printed.

    >>> notice_text(1, 120)
    "1 of the workers' machines will be taken away; a checkpoint is written after step 120, the training goes on"
    """
    return (
        f"{machines} of the workers' machines will be taken away; a checkpoint is written after step {step}, "
        "the training goes on"
    )
