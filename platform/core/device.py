"""Which device a command computes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from .errors import ConfigError

if TYPE_CHECKING:
    import torch

DeviceChoice: TypeAlias = Literal["auto", "cpu", "cuda"]
"""auto: a GPU where there is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceConfig:
    """What every command that runs a network shares."""

    device: DeviceChoice = "auto"
    """Where networks compute; `auto` takes a GPU where there is one. Its results differ from a CPU's by rounding, which
    `cpu` avoids."""


def resolve_device(choice: DeviceChoice, setting: str = "device") -> torch.device:
    """The device of a choice. Raises ConfigError, which names the setting, for a GPU that there is not."""
    import torch

    gpu = torch.cuda.is_available()
    if choice == "cuda" and not gpu:
        raise ConfigError(f"{setting} cuda needs a GPU, here is none; set {setting} to cpu")
    return torch.device("cuda" if gpu and choice != "cpu" else "cpu")
