"""DeepSpeed behind one class: everything of it that is not its public interface is used here and nowhere else.

DeepSpeed is pinned below 0.20 for the attributes that are listed at `DeepSpeedStudent`; tests/pretrain/distillation
/test_engine.py trains and resumes under every ZeRO stage and fails if one of them changes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from ...platform.core.extras import require_extra
from .config import OptimConfig

SMALL = 100_000
"""Parameters of up to so many numbers stay whole on every worker under ZeRO 3: fetching them would cost more."""


@dataclass(frozen=True, slots=True, eq=False)
class RowSegment:
    """Consecutive numbers of one flattened parameter that this worker optimizes."""

    row: Tensor
    """The tensor that AdamW steps, in which they are (see `DeepSpeedStudent.rows`)."""
    parameter: nn.Parameter
    size: int
    """Numbers in the whole parameter."""
    start: int
    """Index of the segment's first number in the flattened parameter."""
    offset: int
    """Index of the segment's first number in the flattened row."""
    count: int


class DeepSpeedStudent:
    """A student and its AdamW under DeepSpeed, on one worker of a process group that already exists.

    Private attributes of DeepSpeed 0.19, and why each is needed:

    * `deepspeed.ops.__compatible_ops__`: on a CPU DeepSpeed would compile for 80 s an extension for shared memory
      that Ray's workers do not use.
    * `optimizer.single_partition_of_fp32_groups` (ZeRO 1, 2), `optimizer.fp32_partitioned_groups_flat` (ZeRO 3):
      the float32 rows that AdamW steps. Our checkpoints hold them by parameter name, so that another number of
      workers or another stage can read them, and no pickle is involved.
    * `optimizer.averaged_gradients` (ZeRO 1-3): the gradients of these rows, for one global norm and the detection of
      non-finite values without waiting for the device.
    * `optimizer.round_robin_bit16_groups`, `round_robin_bit16_offsets` (ZeRO 1, 2), `optimizer.fp16_groups`,
      `parameter.ds_tensor`, `parameter.ds_numel` (ZeRO 3): which numbers of which parameter a row holds.
    * `optimizer.update_lp_params` (ZeRO 1, 2), `optimizer._reassign_or_swap_out_partitioned_parameters`,
      `optimizer.persistent_parameters` and their `partition`, `all_gather` (ZeRO 3): copy loaded rows into the
      student.
    * `optimizer._get_norm_groups` (ZeRO 3): replaced, since gradients arrive clipped; DeepSpeed's own norm would be
      a sum over workers for each group.
    """

    def __init__(
        self,
        student: nn.Module,
        adam: torch.optim.AdamW,
        config: OptimConfig,
        *,
        batch: int,
        world: int,
        rank: int,
        device: torch.device,
    ) -> None:
        prepare_deepspeed(device)
        import deepspeed

        self.student, self.adam, self.zero, self.rank = student, adam, config.zero, rank
        restore_dataclasses = _return_tuples(student) if config.zero == 3 else lambda: None
        self.model, *_ = deepspeed.initialize(
            model=student.to(device),
            optimizer=adam,
            dist_init_required=False,
            config=_deepspeed_config(config, batch, world),
        )
        restore_dataclasses()
        self._optimizer = self.model.optimizer
        if config.zero == 3:
            _register_embeddings(student)
            self._optimizer._get_norm_groups = lambda: [torch.zeros(())]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups in which learning rate and weight decay are set."""
        return self._optimizer.param_groups

    def rows(self) -> list[Tensor]:
        """The tensors that AdamW steps: the parameters themselves, or DeepSpeed's rows of parts of them."""
        match self.zero:
            case 0:
                return list(self.student.parameters())
            case 3:
                return self._optimizer.fp32_partitioned_groups_flat
            case _:
                return self._optimizer.single_partition_of_fp32_groups

    def gradients(self) -> list[Tensor]:
        """The gradients of `rows`: means over all workers."""
        if self.zero == 0:
            return [parameter.grad for parameter in self.student.parameters() if parameter.grad is not None]
        averaged = self._optimizer.averaged_gradients
        return [gradient for group in range(len(self.rows())) for gradient in averaged[group]]

    def segments(self) -> Iterator[RowSegment]:
        """What this worker optimizes: every parameter without ZeRO, else its share of DeepSpeed's rows."""
        for group, row in enumerate(self.rows()):
            match self.zero:
                case 0:
                    assert isinstance(row, nn.Parameter)
                    yield RowSegment(row, row, row.numel(), 0, 0, row.numel())
                case 3:
                    yield from self._segments_of_equal_shares(row, self._optimizer.fp16_groups[group])
                case _:
                    parameters = self._optimizer.round_robin_bit16_groups[group]
                    offsets = self._optimizer.round_robin_bit16_offsets[group]
                    yield from self._segments_of_one_cut(row, parameters, offsets)

    def _segments_of_equal_shares(self, row: Tensor, parameters: list[Any]) -> Iterator[RowSegment]:
        """ZeRO 3: each parameter is cut into as many equal segments as there are workers, the last one padded."""
        offset = 0
        for parameter in parameters:
            length = parameter.ds_tensor.ds_numel
            start = self.rank * length
            count = min(length, parameter.ds_numel - start)
            if count > 0:
                yield RowSegment(row, parameter, parameter.ds_numel, start, offset, count)
            offset += length

    def _segments_of_one_cut(
        self, row: Tensor, parameters: list[nn.Parameter], offsets: list[int]
    ) -> Iterator[RowSegment]:
        """ZeRO 1, 2: a group's parameters are laid end to end, and the whole row is cut."""
        begin = self.rank * row.numel()
        for parameter, offset in zip(parameters, offsets, strict=True):
            first, last = max(offset, begin), min(offset + parameter.numel(), begin + row.numel())
            if first < last:
                yield RowSegment(
                    row, parameter, parameter.numel(), first - offset, first - begin, last - first
                )

    def copy_rows_to_student(self) -> None:
        """After `rows` were changed: give the student's parameters their values."""
        optimizer = self._optimizer
        if self.zero in (1, 2):
            optimizer.update_lp_params()
        elif self.zero == 3:
            for group in range(len(optimizer.fp16_groups)):
                optimizer._reassign_or_swap_out_partitioned_parameters(group)
            if optimizer.persistent_parameters:
                optimizer.persistent_parameters[0].partition(optimizer.persistent_parameters)
                optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)

    def full_parameters(self) -> Iterator[dict[str, nn.Parameter]]:
        """The student's whole parameters by name, a few at a time; each dictionary is valid until the next one.

        Under ZeRO 3 these are a block or a head, gathered from all workers, which call this together.
        """
        if self.zero < 3:
            yield dict(self.student.named_parameters())
            return
        import deepspeed

        for _, named in groupby(self.student.named_parameters(), key=lambda item: _gathered_with(item[0])):
            parameters = dict(named)
            with deepspeed.zero.GatheredParameters(list(parameters.values())):
                yield parameters


def prepare_deepspeed(device: torch.device) -> None:
    """Tell DeepSpeed on which device it is, before its first import; raises ConfigError if it is not installed.

    Left alone it may train on the CPU with a mere warning.
    """
    require_extra("deepspeed", "pretraining")
    os.environ["DS_ACCELERATOR"] = device.type
    import deepspeed.ops

    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed 0.19 calls collectives by the names they had before torch 2.14, several times a step.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)


def _deepspeed_config(config: OptimConfig, batch: int, world: int) -> dict[str, Any]:
    micro_batches = config.micro_batches(batch, world)
    zero: dict[str, Any] = {"stage": config.zero, "stage3_param_persistence_threshold": SMALL}
    if config.zero in (1, 2):
        zero["compute_grad_norm"] = False  # the engine has its own, once for all groups
    return {
        "train_batch_size": batch,
        "train_micro_batch_size_per_gpu": batch // world // micro_batches,
        "gradient_accumulation_steps": micro_batches,
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


def _return_tuples(student: nn.Module) -> Callable[[], None]:
    """Make student and backbone return tuples, in which DeepSpeed's hooks find the tensors.

    Hooks run in the order of their registration: the returned function, called after DeepSpeed has registered its
    own, turns the tuples into dataclasses again.
    """
    modules = (student, student.get_submodule("backbone"))
    types: dict[nn.Module, type] = {}

    def to_tuple(module: nn.Module, _: object, output: Any) -> tuple[Any, ...]:
        types[module] = type(output)
        return tuple(getattr(output, field.name) for field in fields(output))

    def restore_dataclasses() -> None:
        for module in modules:
            module.register_forward_hook(lambda module, _, output: types[module](*output))

    for module in modules:
        module.register_forward_hook(to_tuple)
    return restore_dataclasses


def _register_embeddings(student: nn.Module) -> None:
    """`Backbone` reads its ViT's tokens and positions without calling the ViT: under ZeRO 3 they are gathered with
    the backbone's own parameters."""
    import deepspeed

    backbone = student.get_submodule("backbone")
    for parameter in backbone.get_submodule("vit").parameters(recurse=False):
        deepspeed.zero.register_external_parameter(backbone, parameter)


def _gathered_with(name: str) -> str:
    """The block or part whose parameters are gathered at once.

    >>> [_gathered_with(name) for name in ("backbone.vit.blocks.3.attn.qkv.weight", "backbone.vit.pos_embed")]
    ['backbone.vit.blocks.3', 'backbone']
    """
    words = name.split(".")
    return ".".join(words[:4]) if "blocks" in words[:3] else words[0]
