"""`vetdino pretrain RECIPE`: shards become a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from ...platform.core.config import subconfig, to_json
from ...platform.core.errors import ConfigError
from ...platform.core.location import Location
from ...pretrain.config import PretrainConfig
from ...pretrain.recipes import RECIPES, recipe
from .arguments import Command


@dataclass(frozen=True, kw_only=True)
class RecipeCommand(PretrainConfig, Command):
    """A command whose first argument is a recipe, any setting of which can be changed."""

    usage: ClassVar[str]
    """Its name and arguments."""

    @classmethod
    def parse_start(cls, arguments: Sequence[str]) -> tuple[Any, list[str], str]:
        verb = cls.usage.split()[0]
        if not arguments or arguments[0].startswith("-"):
            raise ConfigError(
                f"the recipe comes first: vetdino {verb} {next(iter(RECIPES))} …; "
                f"recipes: {', '.join(RECIPES)}"
            )
        name, *rest = arguments
        start = recipe(name)
        return cls(**{field.name: getattr(start, field.name) for field in fields(start)}), rest, name

    @classmethod
    def overview(cls) -> str:
        """What the command's `--help` prints without a recipe: the recipes."""
        width = max(map(len, RECIPES))
        lines = [
            f"  {name:<{width}}   {(make.__doc__ or '').splitlines()[0]}" for name, make in RECIPES.items()
        ]
        return "\n".join(
            [
                f"usage: vetdino {cls.usage} [--setting value …]",
                "",
                *lines,
                "",
                f"vetdino {cls.usage.split()[0]} RECIPE --help lists the settings with the recipe's values.",
            ]
        )


@dataclass(frozen=True, kw_only=True)
class Pretrain(RecipeCommand):
    """Pretrain a backbone by multi-view distillation; every setting starts from the recipe's value."""

    usage: ClassVar = "pretrain RECIPE --shards DIR --out DIR"
    basic: ClassVar = (
        *("shards", "out", "start", "batch", "steps", "optim.lr.start", "crops.global_side", "workers"),
        *("device", "seed", "checkpoint_every", "resume", "print_config"),
    )
    print_config: bool = False
    """Print the whole config as JSON and stop."""

    def prepared(self, action: str) -> AbstractContextManager[Self]:
        """As it is: the training itself locks its folder and reads and writes URLs, since `vetdino demo` and notebooks
        start it, too."""
        return nullcontext(self)

    def run(self) -> Path | Location | None:
        config = subconfig(PretrainConfig, self)
        if self.print_config:
            print(to_json(config), end="")
            return None
        from ...pretrain.job import pretrain

        return pretrain(config)
