"""A second device on a machine that has none: its tensors hold their values on the CPU, and it is as strict as a GPU.

Within `second_device()` a tensor that is sent to `SECOND` (or made there) is of that device; an operation on tensors
of two devices raises, and so does `numpy()` before `cpu()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

SECOND = torch.device("meta")
"""A kind of device that PyTorch has on every machine."""


class SecondTensor(torch.Tensor):
    """A tensor of the second device; `held` has its values, on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> SecondTensor:
        wrapper = torch.Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), dtype=values.dtype, device=SECOND
        )
        wrapper.held = values
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(function, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """Also sees operations whose tensors are all on the CPU, such as those that send one away."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(function, args, kwargs or {})


def dispatched(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU, its result on the device where a GPU would have it."""
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    second = any(isinstance(one, SecondTensor) for one in tensors)
    target = kwargs.get("device")
    if function is torch.ops.aten._to_copy.default:
        pass
    elif function is torch.ops.aten.copy_.default:  # from one device to another
        to, source = args[:2]
        getattr(to, "held", to).copy_(getattr(source, "held", source))
        return to
    elif second and any(not isinstance(one, SecondTensor) and one.dim() for one in tensors):
        raise RuntimeError(f"{function}: expected all tensors on one device, found {SECOND} and cpu")
    if target is not None:
        second = torch.device(target).type == SECOND.type
        kwargs = {**kwargs, "device": torch.device("cpu")}
    plain = lambda leaf: leaf.held if isinstance(leaf, SecondTensor) else leaf
    result = function(*tree_map(plain, args), **tree_map(plain, kwargs))
    mutated = function._schema.is_mutable and args and isinstance(args[0], SecondTensor)
    if mutated and function._schema.name.split("::")[1].endswith("_"):
        return args[0]
    return tree_map(
        lambda leaf: SecondTensor(leaf) if second and isinstance(leaf, torch.Tensor) else leaf, result
    )


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Within the `with` block there is a second device; its name."""
    # Wrapped tensors have no version counter, which inference mode asks for.
    with SecondDevice(), mock.patch("torch.inference_mode", torch.no_grad):
        yield SECOND
