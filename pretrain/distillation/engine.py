"""DeepSpeed around the student: parameter groups, schedules, the step, and its part of a checkpoint."""

from __future__ import annotations

import functools
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...platform.core.errors import CheckpointError
from ...platform.training.checkpoint import Writer
from ...platform.training.parameter_groups import parameter_groups
from .config import OptimConfig
from .distiller import Learner

PARTS = "engine"
"""Folder in a checkpoint with one safetensors file a worker."""


SMALL = 100_000
"""Numbers up to which a parameter stays whole on every worker under ZeRO 3: fetching it would cost more."""


def student_groups(student: Learner, config: OptimConfig) -> list[dict[str, Any]]:
    """The student's parameter groups; what `Engine.schedule` may hold still is of the kind `backbone` or `prototypes`."""

    def kind(name: str) -> str:
        if name.endswith(".prototypes_KW"):
            return "prototypes"
        return "backbone" if name.startswith("backbone.") else ""

    return parameter_groups(student, config.layer_decay, patch_embed=config.patch_embed, kind=kind)


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """The run of one parameter's numbers, seen as one row, whose optimiser state this worker keeps."""

    name: str
    size: int
    """Numbers in the whole parameter."""
    start: int
    values: Mapping[str, Tensor]
    """`weight` and AdamW's `exp_avg` and `exp_avg_sq`: one-dimensional views, float32."""


class Engine:
    """The student under DeepSpeed on one worker of a process group that already exists.

    A step is `backward` for each of `parts` parts of the worker's share, then `step`. Nothing in it waits for
    the device but what DeepSpeed itself does.
    """

    def __init__(
        self,
        student: Learner,
        config: OptimConfig,
        *,
        batch: int,
        world: int,
        steps: int,
        device: torch.device,
        frozen: int = 0,
    ) -> None:
        """frozen: steps during which the backbone stays as it is, while new heads are fitted to it."""
        config.check(device.type)
        prepare_deepspeed(device)
        import deepspeed

        self.config, self.steps, self.device, self.world = config, steps, device, world
        self.frozen = frozen
        self.rank = dist.get_rank()
        self.scale = math.sqrt(batch / 1024)
        self.parts = config.parts(batch, world)
        self.student = student
        groups = student_groups(student, config)
        self.rules = [group.pop("rule") for group in groups]
        self.adam = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)
        prepare_blocks(student, config, device)
        named = _answering_in_tuples(student) if config.zero == 3 else lambda: None
        self.inner, *_ = deepspeed.initialize(
            model=student.to(device),
            optimizer=self.adam,
            dist_init_required=False,
            config=_deepspeed_config(config, batch, batch // world // self.parts, self.parts),
        )
        named()
        if config.zero == 3:
            _tell_of_embeddings(student)
            # Gradients arrive clipped: DeepSpeed's own norm, a sum over workers for each group, is spared.
            self.inner.optimizer._get_norm_groups = lambda: [torch.zeros(())]
        self._begin_state()
        self._part = 0
        self._writer = Writer()

    def schedule(self, step: int, factor: float = 1.0) -> dict[str, float]:
        """Set this step's learning rate, times `factor`, and decay; their values, by name."""
        lr = self.config.lr.at(step, self.steps) * self.scale * factor
        decay = self.config.weight_decay.at(step, self.steps)
        early = step < self.config.freeze_prototypes * self.steps
        for group, rule in zip(self.inner.optimizer.param_groups, self.rules, strict=True):
            held = (rule.kind == "prototypes" and early) or (rule.kind == "backbone" and step < self.frozen)
            group["lr"] = 0.0 if held else lr * rule.lr_factor
            group["weight_decay"] = decay if rule.decays else 0.0
        return {"lr": lr, "weight_decay": decay}

    def backward(self, loss: Tensor) -> None:
        """Gradients of one part, a mean over its studies; those of a step are the mean over its parts."""
        # A loss that is no number makes all gradients none, and their sum over workers tells every worker.
        self.inner.backward(loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan))
        self._part += 1
        if self._part < self.parts:
            self.inner.step()  # DeepSpeed counts parts here and updates at the last only

    def step(self) -> Tensor:
        """Clip and update; 1.0 where a loss or a gradient of any worker was no finite number, else 0.0.

        The answer is a float32 scalar on the device. Where it is 1.0, weights, moments and AdamW's count of
        steps stay as they were. A finite gradient whose norm exceeds float32 counts as none.
        """
        assert self._part == self.parts, f"{self._part} of {self.parts} parts have gone backward"
        self._part = 0
        gradients = self._gradients()
        square = torch.nn.utils.get_total_norm(gradients).square().to(self.device)
        if self.config.zero and self.world > 1:
            dist.all_reduce(square)
        norm = square.sqrt()
        good = norm.isfinite()
        # Where bad, 0 and not NaN: under ZeRO 3 what pads the gradients is never written anew.
        torch._foreach_mul_(
            gradients, torch.where(good, self.config.clip / (norm + 1e-6), 0.0).clamp(max=1.0)
        )
        bad = good.logical_not().float()
        # The fused AdamW obeys it on the device, as under torch.amp.GradScaler.
        self.adam.found_inf = bad
        self.inner.step()
        return bad

    def autocast(self) -> torch.autocast:
        """The same precision for what runs outside DeepSpeed, such as the teacher."""
        on = self.config.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=on)

    def whole(self) -> Iterator[dict[str, nn.Parameter]]:
        """The student's parameters by name, a few at a time; each lot is whole until the next is asked for.

        Under ZeRO 3 a lot is a block or a head, brought together from all workers, who walk along together.
        """
        if self.config.zero < 3:
            yield dict(self.student.named_parameters())
            return
        import deepspeed

        for _, lot in groupby(self.student.named_parameters(), key=lambda named: _lot(named[0])):
            parameters = dict(lot)
            with deepspeed.zero.GatheredParameters(list(parameters.values())):
                yield parameters

    def save(
        self,
        folder: Path,
        beside: Mapping[str, Mapping[str, Tensor]] | None = None,
        then: Callable[[], object] | None = None,
    ) -> None:
        """Begin to write student and optimiser into a folder, from a snapshot; all workers call this together.

        The first worker also writes the tensors of `beside`, by file name, and calls `then` (in the writing
        thread) when the files of all workers lie in the folder. Raises as `wait` does, where the checkpoint
        before failed.
        """
        files: dict[Path, Mapping[str, Tensor]] = {}
        if self.config.zero or self.rank == 0:
            step = self.adam.state[self._flat()[0]]["step"]
            files[_part(folder, self.rank)] = {"step": step} | {
                f"{kind} {share.name} {share.start}": value
                for share in self._shares()
                for kind, value in share.values.items()
            }
        if self.rank == 0:
            files |= {folder / name: tensors for name, tensors in (beside or {}).items()}
        others = [_part(folder, rank) for rank in range(1, self.world if self.config.zero else 1)]

        def all_written() -> None:
            _wait_for(others)
            if then is not None:
                then()

        self._writer.start(files, all_written if self.rank == 0 else None)

    def wait(self) -> None:
        """Until what `save` began is on the disk. Raises CheckpointError where it could not be written."""
        self._writer.wait()

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Back to what `save` left, whatever the number of workers and the ZeRO stage were then.

        Nothing is unpickled. Raises CheckpointError where the folder holds another architecture.
        """
        parts = _Parts(folder)
        for share in self._shares():
            parts.fill(share)
        for flat in self._flat():
            self.adam.state[flat]["step"].fill_(parts.step)
        if self.config.zero in (1, 2):
            self.inner.optimizer.update_lp_params()
        if self.config.zero == 3:
            optimizer = self.inner.optimizer
            for group in range(len(optimizer.fp16_groups)):
                optimizer._reassign_or_swap_out_partitioned_parameters(group)
            if optimizer.persistent_parameters:
                optimizer.persistent_parameters[0].partition(optimizer.persistent_parameters)
                optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)

    def _flat(self) -> list[Tensor]:
        """What the inner AdamW steps: the parameters themselves, or DeepSpeed's rows of parts of them."""
        match self.config.zero:
            case 0:
                return list(self.student.parameters())
            case 3:
                return self.inner.optimizer.fp32_partitioned_groups_flat
            case _:
                return self.inner.optimizer.single_partition_of_fp32_groups

    def _gradients(self) -> list[Tensor]:
        """The mean over all workers of the gradients that belong to `_flat`."""
        if self.config.zero == 0:
            return [parameter.grad for parameter in self.student.parameters() if parameter.grad is not None]
        held = self.inner.optimizer.averaged_gradients
        return [gradient for group in range(len(self._flat())) for gradient in held[group]]

    def _begin_state(self) -> None:
        """Moments of zero, as AdamW itself makes them at its first step: so they can be saved and loaded before."""
        for flat in self._flat():
            self.adam.state[flat] = {
                "step": torch.zeros((), dtype=torch.float32, device=flat.device),
                "exp_avg": torch.zeros_like(flat),
                "exp_avg_sq": torch.zeros_like(flat),
            }

    def _shares(self) -> Iterator[Share]:
        """What this worker keeps: all of every parameter without ZeRO, else its runs of DeepSpeed's rows."""
        name_of = {id(parameter): name for name, parameter in self.student.named_parameters()}
        for flat, parameter, start, offset, count in self._runs():
            state = self.adam.state[flat]
            rows = {"weight": flat.data, "exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]}
            values = {kind: row.view(-1)[offset : offset + count] for kind, row in rows.items()}
            size = parameter.ds_numel if self.config.zero == 3 else parameter.numel()
            yield Share(name_of[id(parameter)], size, start, values)

    def _runs(self) -> Iterator[tuple[Tensor, nn.Parameter, int, int, int]]:
        """(row, parameter, first number within the parameter, first within the row, how many)."""
        optimizer = self.inner.optimizer
        for group, flat in enumerate(self._flat()):
            if self.config.zero == 0:
                yield flat, flat, 0, 0, flat.numel()
            elif self.config.zero == 3:
                # Every parameter is cut into as many equal runs as there are workers, the last one padded.
                offset = 0
                for parameter in optimizer.fp16_groups[group]:
                    run = parameter.ds_tensor.ds_numel
                    start = self.rank * run
                    count = min(run, parameter.ds_numel - start)
                    if count > 0:
                        yield flat, parameter, start, offset, count
                    offset += run
            else:
                # A group's parameters are laid end to end, and the whole row is cut.
                begin = self.rank * flat.numel()
                offsets = optimizer.round_robin_bit16_offsets[group]
                for parameter, at in zip(optimizer.round_robin_bit16_groups[group], offsets, strict=True):
                    first, last = max(at, begin), min(at + parameter.numel(), begin + flat.numel())
                    if first < last:
                        yield flat, parameter, first - at, first - begin, last - first


class _Parts:
    """The files that all workers of a checkpoint left, read as one."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self.folder = folder
        self.files = [safe_open(path, "pt") for path in sorted((folder / PARTS).glob("*.safetensors"))]
        if not self.files:
            raise CheckpointError(
                f"{folder}: holds no engine state; take a checkpoint that `vetdino pretrain` left"
            )
        self.step = float(self.files[0].get_tensor("step"))
        # (kind, name) -> (first number, file, key) of each run
        self.runs: dict[tuple[str, str], list[tuple[int, Any, str]]] = {}
        for file in self.files:
            for key in sorted(set(file.keys()) - {"step"}):
                kind, name, start = key.split(" ")
                self.runs.setdefault((kind, name), []).append((int(start), file, key))

    def fill(self, share: Share) -> None:
        """Read a share's numbers. Raises CheckpointError where the parameter is missing or of another size."""
        for kind, row in share.values.items():
            runs = [
                (first, file.get_slice(key)) for first, file, key in self.runs.get((kind, share.name), [])
            ]
            lengths = [run.get_shape()[0] for _, run in runs]
            if sum(lengths) != share.size:
                raise CheckpointError(
                    f"{self.folder}: {share.name} has {sum(lengths)} numbers, here it has {share.size}; set "
                    "--backbone.* and --distill.head.* to those of its config.json"
                )
            for (first, run), length in zip(runs, lengths, strict=True):
                lower, upper = max(first, share.start), min(first + length, share.start + len(row))
                if lower < upper:
                    row[lower - share.start : upper - share.start] = run[lower - first : upper - first]


@torch.no_grad()
def read_student(folder: Path, student: Learner) -> None:
    """Give a student, whole on one machine, the weights of a checkpoint. Raises as `Engine.load`."""
    parts = _Parts(folder)
    for name, parameter in student.named_parameters():
        parts.fill(Share(name, parameter.numel(), 0, {"weight": parameter.view(-1)}))


def _lot(name: str) -> str:
    """Parameters that are brought together at once.

    >>> _lot("backbone.vit.blocks.3.attn.qkv.weight"), _lot("backbone.vit.pos_embed"), _lot("head.mlp.0.bias")
    ('backbone.vit.blocks.3', 'backbone', 'head')
    """
    words = name.split(".")
    return ".".join(words[:4]) if "blocks" in words[:3] else words[0]


def _part(folder: Path, rank: int) -> Path:
    return folder / PARTS / f"worker{rank:04d}.safetensors"


def prepare_blocks(student: Learner, config: OptimConfig, device: torch.device) -> None:
    """Kernels of the blocks by device and setting; names of parameters stay."""
    if config.compile:
        # All blocks share one function; each has its own drop rate, two lengths of sequence, with and without
        # gradient. Past the limit (8) torch would go on without compiling.
        from torch._dynamo import config as limits

        limits.recompile_limit = max(limits.recompile_limit, 4 * len(student.backbone.vit.blocks) + 8)
    for block in student.backbone.vit.blocks:
        # Where gradients flow, plain products beat the fused kernel on a CPU (2-5 times in bfloat16).
        block.attn.fused_attn = device.type == "cuda"
        if config.compile:
            block.forward = torch.compile(block.forward, dynamic=False)
        if config.checkpoint_activations:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def _answering_in_tuples(student: Learner) -> Callable[[], None]:
    """Have the student and its backbone answer in tuples, in which DeepSpeed's hooks find the tensors.

    Hooks run in the order in which they were given: what is returned, called after DeepSpeed has given its own,
    turns the tuples into dataclasses again.
    """
    modules = (student, student.backbone)
    kinds: dict[nn.Module, type] = {}

    def to_tuple(module: nn.Module, _: object, answer: Any) -> tuple[Any, ...]:
        kinds[module] = type(answer)
        return tuple(getattr(answer, field.name) for field in fields(answer))

    def named() -> None:
        for module in modules:
            module.register_forward_hook(lambda module, _, answer: kinds[module](*answer))

    for module in modules:
        module.register_forward_hook(to_tuple)
    return named


def _tell_of_embeddings(student: Learner) -> None:
    """`Backbone` reads its ViT's tokens and positions without calling the ViT: under ZeRO 3 they are gathered
    with the backbone's own."""
    import deepspeed

    backbone = student.backbone
    for parameter in backbone.vit.parameters(recurse=False):
        deepspeed.zero.register_external_parameter(backbone, parameter)


def _deepspeed_config(config: OptimConfig, batch: int, micro: int, parts: int) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": config.zero, "stage3_param_persistence_threshold": SMALL}
    if config.zero in (1, 2):
        zero["compute_grad_norm"] = False  # the engine's own, once for all groups
    return {
        "train_batch_size": batch,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": parts,
        "gradient_clipping": 0.0,  # gradients arrive clipped
        "zero_optimization": zero,
        "torch_autocast": {
            "enabled": config.precision == "bfloat16",
            "dtype": "bfloat16",
            # None: gradients are summed and weights gathered in float32, so that all stages train alike.
            "lower_precision_safe_modules": [],
        },
        "steps_per_print": 2**62,
    }


def prepare_deepspeed(device: torch.device) -> None:
    """Tell DeepSpeed where it runs before it looks for itself.

    Left alone it may train on the CPU with a mere warning, and on a CPU it compiles for 80 s an extension
    for shared memory that Ray's workers do not use.
    """
    os.environ["DS_ACCELERATOR"] = device.type
    import deepspeed.ops

    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed 0.19 calls collectives by the names they had before torch 2.14, several times a step.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)


def _wait_for(files: list[Path], seconds: float = 1800.0) -> None:
    """Until other workers' files have their names. Raises OSError where one does not come."""
    ends = time.monotonic() + seconds
    for path in files:
        while not path.exists():
            if time.monotonic() > ends:
                raise TimeoutError(f"{path} of another worker did not come in {seconds / 60:.0f} minutes")
            time.sleep(0.05)
