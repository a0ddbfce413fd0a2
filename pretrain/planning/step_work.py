"""The work of one training step, counted by running the step itself on tensors without data.

The student, the teacher, the losses and the gradients are the ones that train; only their tensors are fake (PyTorch's
FakeTensorMode), so that a ViT-L's step on a GPU is counted on a laptop, with autocast's rules for that device.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ...platform.models.backbone import Backbone
from ...platform.models.card import Card
from ..batches.batch import CropBatch
from ..config import PretrainConfig
from ..distillation.blocks import prepare_blocks
from ..distillation.distiller import Distiller, LearnerOutputs

# B studies, G global and L local crops of a study, T of them the teacher's, N patches.


@dataclass(frozen=True, slots=True)
class StepWork:
    """What one worker computes and keeps for its share of a step."""

    studies: int
    """Studies of the share."""
    flops: float
    """Floating-point operations of its matrix products, two for each multiply-and-add, forward and backward."""
    activation_bytes: int
    """Most bytes that are kept at one time, beside weights, gradients and moments."""
    student: int
    """Numbers in the student's parameters, heads included."""
    backbone: int
    """Numbers in the backbone's parameters."""
    centers: int
    """Numbers in the teacher's centers."""

    @property
    def flops_a_study(self) -> float:
        """Floating-point operations of one study."""
        return self.flops / self.studies


def step_work(config: PretrainConfig, device_type: str) -> StepWork:
    """The work of one worker's step under these settings, on a device (`cpu`, `cuda`) that need not be here.

    All micro-batches' targets are made and kept; of the equal micro-batches one is computed. Hidden patches are as many
    as the settings give on average. Compiled blocks count like others. Raises ConfigError for an unknown backbone.
    """
    share = config.batch // config.workers
    count = config.optim.micro_batches(config.batch, config.workers)
    mixed = config.optim.precision == "bfloat16"
    with _fake_distiller(config, device_type) as distiller, ExitStack() as stack:
        batch = _fake_batch(config, share // count)
        teacher, student = distiller.teacher, distiller.student
        memory = AllocationCounter([*distiller.parameters(), *distiller.buffers()])
        stack.enter_context(memory)
        stack.enter_context(_MaskIndexing(_hidden(config, share // count)))
        stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed))
        if device_type == "cuda":
            stack.enter_context(_cuda_rules(distiller, mixed))
        with FlopCounterMode(display=False) as first:
            distiller.teacher, distiller.student = _FirstTime(teacher), _FirstTime(student)  # type: ignore[assignment]
            targets, *_ = distiller.make_targets([batch] * count, 0.05, [None] * count)
        distiller.teacher, distiller.student = teacher, student
        with FlopCounterMode(display=False) as each:
            distiller.losses(student, batch, targets).total.backward()
        flops = count * (first.get_total_flops() + each.get_total_flops())
        sizes = {name: value.numel() for name, value in student.named_parameters()}
        return StepWork(
            studies=share,
            flops=float(flops),
            activation_bytes=memory.peak,
            student=sum(sizes.values()),
            backbone=sum(size for name, size in sizes.items() if name.startswith("backbone.")),
            centers=sum(center.numel() for center in distiller.buffers()),
        )


def _hidden(config: PretrainConfig, studies: int) -> int:
    """Hidden patches of so many studies, on average."""
    masks, crops = config.distill.masks, config.crops
    patches = (crops.global_side // config.patch_side) ** 2
    return int(studies * crops.globals_per_view * patches * masks.probability * sum(masks.ratio) / 2)


@contextmanager
def _fake_distiller(config: PretrainConfig, device_type: str) -> Iterator[Distiller]:
    """The distiller with gradients in place, every tensor without data; within the `with` block so are new ones."""
    with torch.device("meta"):
        distiller = Distiller(Backbone(Card(label="", config=config.backbone)), config.distill)
    if config.optim.checkpoint_activations:
        collect_before_blocks(distiller)
    prepare_blocks(distiller.student, replace(config.optim, compile=False), torch.device(device_type))
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in distiller.modules():
            for name, parameter in module.named_parameters(recurse=False):
                empty = torch.empty(parameter.shape, device="cpu")
                fake = nn.Parameter(empty, requires_grad=parameter.requires_grad)
                # There from the start, as after the first micro-batch: what comes on top is passing.
                fake.grad = torch.empty_like(empty) if fake.requires_grad else None
                setattr(module, name, fake)
            for name, center in module.named_buffers(recurse=False):
                setattr(module, name, torch.empty(center.shape, device="cpu"))
        yield distiller


def collect_before_blocks(distiller: Distiller) -> None:
    """Let each of the student's blocks begin with a garbage collection.

    Activations that are computed again lie in cycles of references; when Python finds these by itself depends on all
    that ran before, and so would the memory that is counted.
    """

    def collecting(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def collected(*arguments: Any) -> Tensor:
            gc.collect()
            return forward(*arguments)

        return collected

    for block in distiller.student.backbone.vit.blocks:
        block.forward = collecting(block.forward)


def _fake_batch(config: PretrainConfig, studies: int) -> CropBatch:
    crops = config.crops
    patches = (crops.global_side // config.patch_side) ** 2

    def gray(count: int, side: int) -> Tensor:
        return torch.empty((count, studies, 1, side, side), dtype=torch.uint8, device="cpu")

    return CropBatch(
        gray(2 * crops.globals_per_view, crops.global_side),
        gray(2 * crops.locals_per_view, crops.local_side),
        torch.empty((crops.globals_per_view, studies, patches), dtype=torch.bool, device="cpu"),
        ("",) * studies,
        (True,) * studies,
    )


@contextmanager
def _cuda_rules(distiller: Distiller, mixed: bool) -> Iterator[None]:
    """What differs on a GPU: attention is fused, and autocast computes layer norms in float32.

    The tensors themselves are fake CPU tensors: PyTorch's backward pass looks for the GPU of fake CUDA tensors.
    """
    for module in distiller.modules():
        if mixed and isinstance(module, nn.LayerNorm):
            module.register_forward_pre_hook(lambda _, arguments: (arguments[0].float(),))
    with patch.object(F, "scaled_dot_product_attention", _fused_attention):
        yield


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Tensor:
    """What CUDA's `scaled_dot_product_attention` runs: FlashAttention, in float32 the memory-efficient one."""
    if query.dtype == torch.bfloat16:
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
    keeps = torch.is_grad_enabled() and query.requires_grad
    return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, keeps)[0]


class _MaskIndexing(TorchDispatchMode):
    """Answers what depends on data that there are not: how many patches a mask hides."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1
        if func in (torch.ops.aten.index.Tensor, torch.ops.aten._index_put_impl_.default):
            masks = [index for index in args[1] if index is not None and index.dtype == torch.bool]
            if masks:
                if func is torch.ops.aten._index_put_impl_.default:
                    return args[0]
                rows = (
                    self.hidden
                    if masks[0].dim() == 2 and masks[0].numel() > self.hidden
                    else masks[0].numel()
                )
                return args[0].new_empty(rows, *args[0].shape[masks[0].dim() :])
        return func(*args, **(kwargs or {}))


class _FirstTime(nn.Module):
    """A learner that computes the first time and then returns outputs of the same shapes: equal work counts once."""

    def __init__(self, learner: nn.Module) -> None:
        super().__init__()
        self.learner = learner
        self.outputs: LearnerOutputs | None = None

    def forward(self, *arguments: Any) -> LearnerOutputs:
        if self.outputs is None:
            self.outputs = self.learner(*arguments)
            return self.outputs
        kept = self.outputs
        return LearnerOutputs(
            cls_SBK=torch.empty_like(kept.cls_SBK),
            patch_MK=torch.empty_like(kept.patch_MK),
            global_cls=torch.empty_like(kept.global_cls),
        )


class AllocationCounter(TorchDispatchMode):
    """Counts the bytes of all storage that is allocated within it and still in use.

    known: tensors whose storage does not count. A view shares the storage of its base, which counts once.
    """

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        tensors = [*known, *(value.grad for value in known if value.grad is not None)]
        self._known = [value.untyped_storage() for value in tensors]
        self._seen = {storage._cdata for storage in self._known}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._see(value.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self._seen:
            return
        self._seen.add(place)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, place, size)

    def _freed(self, place: int, size: int) -> None:
        self._seen.discard(place)
        self.now -= size
