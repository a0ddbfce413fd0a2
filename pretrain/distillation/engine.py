"""One optimizer step of the student under DeepSpeed: schedule, backward, clipped update, save and load."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...platform.training.checkpoint import AsyncWriter
from ...platform.training.parameter_groups import parameter_groups
from ...platform.training.schedules import steps_begun
from .blocks import prepare_blocks
from .config import OptimConfig
from .deepspeed_adapter import DeepSpeedStudent
from .engine_state import EngineState, ParameterSlice, slice_tensors, wait_for_files, worker_file


def student_groups(student: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """The student's parameter groups; those of kind `backbone` or `prototypes` may be frozen for some steps."""

    def kind(name: str) -> str:
        if name.endswith(".prototypes_KW"):
            return "prototypes"
        return "backbone" if name.startswith("backbone.") else ""

    return parameter_groups(student, config.layer_decay, patch_embed=config.patch_embed, kind=kind)


class Engine:
    """The student with its optimizer on one worker of a process group that already exists.

    A step is `backward` for each of the `micro_batches` of the worker's share, then `step`. Nothing in it waits for
    the device but what DeepSpeed itself does.
    """

    def __init__(
        self,
        student: nn.Module,
        config: OptimConfig,
        *,
        batch: int,
        world: int,
        steps: int,
        device: torch.device,
        frozen_steps: int = 0,
    ) -> None:
        """batch: studies a step over all `world` workers. frozen_steps: steps during which the backbone does not
        change, while new heads are fitted to it."""
        config.check(device.type)
        self.config, self.steps, self.device, self.world = config, steps, device, world
        self.frozen_steps = frozen_steps
        self.frozen_prototype_steps = steps_begun(config.freeze_prototypes, steps)
        self.rank = dist.get_rank()
        self.lr_scale = math.sqrt(batch / 1024)
        self.micro_batches = config.micro_batches(batch, world)
        self.student = student
        groups = student_groups(student, config)
        self.rules = [group.pop("rule") for group in groups]
        self.adam = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)
        prepare_blocks(student, config, device)
        self._deepspeed = DeepSpeedStudent(
            student, self.adam, config, batch=batch, world=world, rank=self.rank, device=device
        )
        self.model = self._deepspeed.model
        """The student as DeepSpeed wraps it: its forward pass is this one's."""
        self._zero_moments()
        self._passes = 0
        self._writer = AsyncWriter()

    def schedule(self, step: int, factor: float = 1.0) -> dict[str, float]:
        """Set this step's learning rate, times `factor`, and weight decay; returns both by name."""
        lr = self.config.lr.at(step, self.steps) * self.lr_scale * factor
        decay = self.config.weight_decay.at(step, self.steps)
        frozen = {
            "prototypes": step < self.frozen_prototype_steps,
            "backbone": step < self.frozen_steps,
        }
        for group, rule in zip(self._deepspeed.param_groups, self.rules, strict=True):
            group["lr"] = 0.0 if frozen.get(rule.kind) else lr * rule.lr_factor
            group["weight_decay"] = decay if rule.decays else 0.0
        return {"lr": lr, "weight_decay": decay}

    def backward(self, loss: Tensor) -> None:
        """Gradients of one micro-batch, a mean over its studies; a step's are the mean over its micro-batches."""
        # A non-finite loss makes all gradients NaN, and their sum over workers tells every worker.
        self.model.backward(loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan))
        self._passes += 1
        if self._passes < self.micro_batches:
            self.model.step()  # DeepSpeed counts micro-batches here and updates only after the last

    def step(self) -> Tensor:
        """Clip and update; returns 1.0 if a loss or gradient of any worker was not finite, else 0.0.

        The result is a float32 scalar on the device. If it is 1.0, weights, moments and AdamW's count of steps do
        not change. A finite gradient whose norm overflows float32 counts as not finite.
        """
        assert self._passes == self.micro_batches, (
            f"{self._passes} of {self.micro_batches} have gone backward"
        )
        self._passes = 0
        gradients = self._deepspeed.gradients()
        square = torch.nn.utils.get_total_norm(gradients).square().to(self.device)
        if self.config.zero and self.world > 1:
            dist.all_reduce(square)
        norm = square.sqrt()
        good = norm.isfinite()
        # 0 and not NaN in a bad step: under ZeRO 3 the padding of the gradients is never written again.
        factor = torch.where(good, self.config.clip / (norm + 1e-6), 0.0).clamp(max=1.0)
        torch._foreach_mul_(gradients, factor)
        bad = good.logical_not().float()
        # The fused AdamW reads it on the device, as under torch.amp.GradScaler.
        self.adam.found_inf = bad  # type: ignore[attr-defined]  # torch's own protocol, without a declaration
        self.model.step()
        return bad

    def autocast(self) -> torch.autocast:
        """The same precision for what runs outside DeepSpeed, such as the teacher."""
        enabled = self.config.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def full_parameters(self) -> Iterator[dict[str, nn.Parameter]]:
        """The student's whole parameters by name, a few at a time; all workers iterate together."""
        return self._deepspeed.full_parameters()

    def save(
        self,
        folder: Path,
        extra_files: Mapping[str, Mapping[str, Tensor]] | None = None,
        then: Callable[[], object] | None = None,
        collect: Callable[[Sequence[Path]], object] = wait_for_files,
        send: Callable[[Path], object] = lambda path: None,
    ) -> None:
        """Begin to write student and optimizer into a folder, from a snapshot; all workers call this together.

        The first worker also writes `extra_files` (file name -> tensors), and calls `then` in the writing thread
        once the files of all workers are in the folder: `collect` waits for those of the others, after each of them
        has called `send` with its own. Raises as `wait` does if the checkpoint before failed.
        """
        files: dict[Path, Mapping[str, Tensor]] = {}
        if self.config.zero or self.rank == 0:
            step = self.adam.state[self._deepspeed.rows()[0]]["step"]
            files[worker_file(folder, self.rank)] = slice_tensors(self._slices(), step)
        if self.rank == 0:
            files |= {folder / name: tensors for name, tensors in (extra_files or {}).items()}
        others = [worker_file(folder, rank) for rank in range(1, self.world if self.config.zero else 1)]

        def written() -> None:
            if self.rank == 0:
                collect(others)
                if then is not None:
                    then()
            elif self.config.zero:
                send(worker_file(folder, self.rank))

        self._writer.start(files, written)

    def wait(self) -> None:
        """Wait until what `save` began is on the disk. Raises CheckpointError if it could not be written."""
        self._writer.wait()

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Load what `save` wrote, whatever the number of workers and the ZeRO stage were then.

        Raises CheckpointError if the folder holds another architecture.
        """
        state = EngineState(folder)
        for one in self._slices():
            state.read_into(one)
        for row in self._deepspeed.rows():
            self.adam.state[row]["step"].fill_(state.step)
        self._deepspeed.copy_rows_to_student()

    def _zero_moments(self) -> None:
        """Make AdamW's state as it would at its first step, so that it can be saved and loaded before."""
        for row in self._deepspeed.rows():
            self.adam.state[row] = {
                "step": torch.zeros((), dtype=torch.float32, device=row.device),
                "exp_avg": torch.zeros_like(row),
                "exp_avg_sq": torch.zeros_like(row),
            }

    def _slices(self) -> Iterator[ParameterSlice]:
        """Views of the weights and moments that this worker optimizes."""
        name_of = {id(parameter): name for name, parameter in self.student.named_parameters()}
        for segment in self._deepspeed.segments():
            row, part = segment.row, slice(segment.offset, segment.offset + segment.count)
            moments = {kind: self.adam.state[row][kind] for kind in ("exp_avg", "exp_avg_sq")}
            values = {kind: value.view(-1)[part] for kind, value in ({"weight": row.data} | moments).items()}
            yield ParameterSlice(name_of[id(segment.parameter)], segment.size, segment.start, values)
