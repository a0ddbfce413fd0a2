"""`vetdino distill TEACHER STUDENT`: a small network learns the tokens of a strong one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Self

from tyro.conf import Positional, arg

from ...platform.core.config import subconfig, to_json
from ...platform.core.location import Location
from ...pretrain.config import FeatureDistillationConfig
from .arguments import SOURCE, Command

STUDENT = (
    "Network that learns them: a timm name, such as vit_tiny_patch16_224 or resnet18, for random weights; timm:NAME "
    "for published ones; or a folder or weights file to go on from"
)


@dataclass(frozen=True, kw_only=True)
class Distill(FeatureDistillationConfig, Command):
    """Distill a frozen teacher's CLS and patch tokens into a small Vision Transformer or CNN, without labels."""

    basic: ClassVar = (
        *("shards", "out", "batch", "steps", "optim.lr.start", "crops.global_side", "dtype", "workers"),
        *("device", "seed", "checkpoint_every", "resume", "print_config"),
    )
    teacher: Annotated[Positional[str], arg(metavar="TEACHER", help=f"{SOURCE}.")]
    student: Annotated[Positional[str], arg(metavar="STUDENT", help=f"{STUDENT}.")]
    print_config: bool = False
    """Print the whole config as JSON and stop."""

    def prepared(self, action: str) -> AbstractContextManager[Self]:
        """As it is: the training itself locks its folder and reads and writes URLs."""
        return nullcontext(self)

    def run(self) -> Path | Location | None:
        config = subconfig(FeatureDistillationConfig, self)
        if self.print_config:
            print(to_json(config), end="")
            return None
        from ...pretrain.job import distill

        return distill(config)
