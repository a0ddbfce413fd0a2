"""A config survives its way through JSON and the command line, and a mistake is named."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.platform.core.config import (
    cli_config,
    digest,
    flat,
    from_json,
    subconfig,
    to_json,
    with_settings,
)
from vetdino.platform.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Crops:
    global_side: int = 224
    """Side of a global crop, in pixels."""
    scale: tuple[float, float] = (0.4, 1.0)
    """Part of the view."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    name: str = "demo"
    """Name."""
    crops: Crops = field(default_factory=Crops)
    """Crops."""
    lr: float = 1e-3
    """Rate."""
    patch: int | None = None
    """Patch."""
    out: Path = Path("runs")
    """Folder."""
    mirror: bool = True
    """Whether to mirror."""


configs = st.builds(
    Recipe,
    name=st.text(),
    crops=st.builds(Crops, global_side=st.integers(), scale=st.tuples(st.floats(0, 1), st.floats(0, 1))),
    lr=st.floats(allow_nan=False),
    patch=st.none() | st.integers(1, 32),
    mirror=st.booleans(),
)


@settings(deadline=None)
@given(configs)
def test_a_config_comes_back_from_its_json_as_it_was(config):
    assert from_json(Recipe, to_json(config)) == config


def test_keys_left_out_keep_their_defaults():
    assert from_json(Recipe, '{"lr": 2}') == Recipe(lr=2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"crops": {"global_sde": 96}}', "unknown setting 'crops.global_sde'.*'crops.global_side'"),
        ('{"global_side": 96}', "unknown setting 'global_side'.*'crops.global_side'"),
        ('{"lr": "fast"}', "setting 'lr' holds 'fast'"),
        ('{"crops": {"global_side": "96"}}', r"setting 'crops\.global_side' holds '96'"),
        ("{", "recipe.json: not JSON"),
    ],
)
def test_a_wrong_setting_is_named_with_the_nearest_one(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        from_json(Recipe, text, "recipe.json")
    assert "\n" not in str(caught.value)


def test_equal_settings_have_one_digest_and_others_another():
    assert digest(Recipe()) == digest(from_json(Recipe, to_json(Recipe())))
    assert len({digest(Recipe()), digest(Recipe(lr=2e-3)), digest(Recipe(crops=Crops(global_side=96)))}) == 3


def test_a_flat_config_names_every_setting_by_its_path():
    assert flat(Recipe()) == {
        "name": "demo",
        "crops.global_side": 224,
        "crops.scale": "[0.4, 1.0]",
        "lr": 1e-3,
        "patch": None,
        "out": "runs",
        "mirror": True,
    }


def test_flags_change_only_what_they_name():
    start = Recipe(name="small", crops=Crops(global_side=64))
    assert cli_config(start, [], "vetdino pretrain small") == start
    changed = cli_config(start, ["--crops.scale", "0.1", "0.5", "--no-mirror", "--patch", "8"], "vetdino")
    assert changed == Recipe(
        name="small", crops=Crops(global_side=64, scale=(0.1, 0.5)), mirror=False, patch=8
    )
    assert cli_config(Recipe, ["--lr=0.5"], "vetdino") == Recipe(lr=0.5)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--crops.global-sde", "96"], "unknown argument --crops.global-sde.*'--crops.global-side'"),
        (["--global-side", "96"], "unknown argument --global-side.*'--crops.global-side'"),
        (["--crops.global-side", "wide"], "--crops.global-side: 'wide' is not a whole number"),
        (["--patch", "x", "--lr", "1"], "--patch: 'x' is not a whole number or None"),
        (["--crops.scale", "0.1", "big"], "--crops.scale: cannot read '0.1 big'"),
        (["--lr"], "Missing value for argument '--lr'"),
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_code_2(args, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli_config(Recipe(), args, "vetdino pretrain demo")
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("vetdino pretrain demo: ")
    assert printed.err.count("\n") == 1
    assert re.search(message, printed.err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["embed", "net", "shards", "out", "--batch", "many"],
            "embed: --batch: 'many' is not a whole number",
        ),
        (["embed", "net"], "embed: missing: SHARDS, OUT"),
        (["zeroshot", "noise"], "zeroshot noise: missing: DOMAINS, --backbone STR"),
    ],
)
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_fault_is_named_whatever_the_terminal_can_show(arguments, message, encoding):
    process = subprocess.run(
        [sys.executable, "-m", "vetdino", *arguments],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    command = message.partition(":")[0]
    assert process.stderr == f"vetdino {message} (see vetdino {command} --help)\n"


def test_settings_are_changed_by_their_paths():
    changed = with_settings(Recipe, {"crops.global_side": 96, "crops.scale": (0.1, 0.5), "lr": 0.5})
    assert changed == Recipe(crops=Crops(global_side=96, scale=(0.1, 0.5)), lr=0.5)
    assert with_settings(changed, {"crops.global_side": 64}).crops == Crops(global_side=64, scale=(0.1, 0.5))
    assert with_settings(changed, {}) == changed


@pytest.mark.parametrize(
    ("settings", "fact"),
    [
        ({"crops.global_sde": 96}, "nearest is 'global_side'|nearest is 'crops.global_side'"),
        ({"name.length": 3}, "unknown setting 'name.length'"),
        ({"crops.global_side": "wide"}, "'global_side' is 'wide'|'crops.global_side' is 'wide'"),
    ],
)
def test_a_wrong_path_or_value_is_named(settings, fact):
    with pytest.raises(ConfigError, match=fact):
        with_settings(Recipe, settings)


def test_a_setting_without_default_is_needed():
    @dataclass
    class Command:
        source: str

    with pytest.raises(ConfigError, match="source"):
        with_settings(Command, {})


def test_a_command_holds_the_config_that_it_extends():
    @dataclass(frozen=True, kw_only=True)
    class Command(Recipe):
        shards: str = "shards"

    assert subconfig(Recipe, Command(lr=0.5, shards="here")) == Recipe(lr=0.5)
