"""The commands' classes: what they read, and what they hand to the rooms."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from vetdino.infra.cli import COMMANDS
from vetdino.infra.commands.arguments import Command
from vetdino.infra.commands.embed import Embed
from vetdino.infra.commands.phantom import KINDS, PhantomRadiographs
from vetdino.infra.commands.pretrain import Pretrain
from vetdino.platform.core.config import cli_config, subconfig
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.data.shards import load_manifest
from vetdino.platform.measure.features import load_features
from vetdino.pretrain.config import PretrainConfig
from vetdino.pretrain.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_dataclass_with_a_docstring_and_a_run(name):
    command = COMMANDS[name].load()
    assert is_dataclass(command)
    assert issubclass(command, Command)
    assert command.__doc__
    assert not command.__doc__.startswith(f"{command.__name__}(")  # the one that dataclass makes up
    assert command.run is not Command.run


def test_a_command_without_a_run_is_our_mistake():
    with pytest.raises(NotImplementedError):
        Command().run()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_on_the_command_line_is_the_recipe(name):
    start, rest, more = Pretrain.parse_start([name, "--seed", "3"])
    assert (rest, more) == (["--seed", "3"], name)
    assert subconfig(PretrainConfig, start) == recipe(name)
    changed = cli_config(start, rest, "prog")
    assert [f.name for f in fields(start) if getattr(start, f.name) != getattr(changed, f.name)] == ["seed"]


@pytest.mark.parametrize("arguments", [[], ["--steps", "3", "small"]])
def test_a_pretraining_without_a_recipe_is_refused(arguments):
    with pytest.raises(ConfigError, match="recipe comes first"):
        Pretrain.parse_start(arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_phantom_chooses_its_settings(kind):
    assert PhantomRadiographs.parse_start(["out", "--kind", kind])[0] is KINDS[kind]


@pytest.mark.slow
def test_embedding_writes_what_the_shards_hold(tmp_path):
    from vetdino.infra import cli
    from vetdino.infra.commands.demo import SHIPPED

    archive, shards = str(tmp_path / "archive"), str(tmp_path / "shards")
    assert cli.main(["phantom", archive, "--studies", "4", "--side", "64"]) == 0
    assert cli.main(["ingest", archive + "/dicom", shards]) == 0
    for level in ("study", "view"):
        command = Embed(backbone=str(SHIPPED), shards=shards, out=tmp_path / level, level=level)
        assert command.run() == tmp_path / level
    manifest = load_manifest(Path(shards))
    assert len(load_features(tmp_path / "study").keys) == manifest.counts["studies"] == 4
    assert len(load_features(tmp_path / "view").keys) > 4
