"""Workflows as functions: the same names, defaults and errors as the commands."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from importlib import import_module

import pytest

import vetdino
from vetdino.infra import api
from vetdino.infra.cli import COMMANDS
from vetdino.platform.core.errors import ConfigError

NAMES = ("phantom", "ingest", "distill", "embed", "evaluate")


@pytest.mark.parametrize("name", NAMES)
def test_a_function_has_the_commands_arguments_and_defaults(name):
    defaults = {field.name: field.default for field in fields(COMMANDS[name].load())}
    for parameter in inspect.signature(getattr(api, name)).parameters.values():
        if parameter.kind is not parameter.VAR_KEYWORD:
            assert parameter.name in defaults
            if parameter.default is not parameter.empty:
                assert str(parameter.default) == str(defaults[parameter.name])
            else:
                assert defaults[parameter.name] is MISSING


def test_pretraining_is_a_function_though_it_is_a_package_too():
    assert callable(vetdino.pretrain)
    import_module("vetdino.pretrain.recipes")
    assert callable(vetdino.pretrain)
    assert vetdino.pretrain.recipes.recipe("small").recipe == "small"


@pytest.mark.parametrize(
    ("call", "fact"),
    [
        (lambda out: vetdino.ingest("nowhere", out, min_veiws=2), "'min_views'"),
        (lambda out: vetdino.ingest("nowhere", out, val="much"), "val"),
        (lambda out: vetdino.embed("b", "s", out, **{"level": "stdy"}), "level"),
        (lambda out: vetdino.evaluate("b", "s", out, **{"knn.k.x": 2}), "knn.k.x"),
        (lambda out: vetdino.segment(["a"], "b", out, support="s"), "mask"),
        (lambda out: vetdino.pretrain("smal", out=out), "'small'"),
        (lambda out: vetdino.pretrain("small", out=out, **{"crops.globl_side": 96}), "'crops.global_side'"),
        (lambda out: vetdino.phantom(out, sedd=1), "'seed'"),
    ],
)
def test_a_wrong_setting_is_refused_before_the_work(call, fact, tmp_path):
    with pytest.raises(ConfigError, match=fact):
        call(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["ultrasound", "volume"])
@pytest.mark.slow
def test_each_kind_of_phantom_can_be_made(kind, tmp_path):
    settings = {"ultrasound": {"domains": 1, "frames": 1}, "volume": {"scans": 1, "modality": "mri"}}[kind]
    folder = vetdino.phantom(tmp_path / "out", kind, side=64, **settings)
    assert folder == tmp_path / "out"
    assert any(folder.iterdir())
