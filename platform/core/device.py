"""Which device a command computes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from .errors import ConfigError

if TYPE_CHECKING:
    import torch

DeviceChoice: TypeAlias = Literal["auto", "cpu", "cuda"]
"""auto: a GPU where there is one."""


def resolve_device(choice: DeviceChoice, setting: str = "device") -> torch.device:
    """The device of a choice. Raises ConfigError, which names the setting, for a GPU that there is not."""
    import torch

    gpu = torch.cuda.is_available()
    if choice == "cuda" and not gpu:
        raise ConfigError(f"{setting} cuda needs a GPU, here is none; set {setting} to cpu")
    return torch.device("cuda" if gpu and choice != "cpu" else "cpu")
