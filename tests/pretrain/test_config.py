"""Settings that contradict each other are refused before anything starts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vetdino.platform.core.config import cli_config
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.models.config import BackboneConfig
from vetdino.pretrain.config import native_patch_side
from vetdino.pretrain.recipes import recipe


def test_an_unknown_setting_is_met_with_the_nearest(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli_config(recipe("demo"), ["--crops.global-sid", "32"], "vetdino pretrain demo")
    [line] = capsys.readouterr().err.splitlines()
    assert "unknown argument --crops.global-sid; the nearest is '--crops.global-side'" in line


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch": 65, "workers": 2}, "batch 65 cannot be divided among workers 2"),
        ({"batch": 2, "workers": 2}, "batch 2 gives some of the workers 2 fewer than 2 studies"),
        ({"workers": 0}, "workers 0 must be at least 1"),
        ({"steps": 0}, "steps 0 must be at least 1"),
        ({"keep": 0}, "keep 0 must be at least 1"),
        ({"head_warmup": 1.5}, "head_warmup 1.5 is not a share of the steps, 0 to 1"),
        (
            {"backbone": BackboneConfig(name="vit_tiny_patch16_224", side=100)},
            "backbone.side 100 is not a multiple of the patch, 16; nearest is 96",
        ),
        (
            {"backbone": BackboneConfig(name="vit_tiny_patch16_224", side=126, patch=14)},
            "crops.global_side 128 is not a multiple of the backbone's patch, 14; nearest is 126",
        ),
        ({"backbone": BackboneConfig(name="my_vit")}, "'my_vit' does not tell its patch; set backbone.patch"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        replace(recipe("small"), **changes).check()


def test_a_patch_is_read_off_the_architectures_name():
    assert native_patch_side("vit_small_patch14_reg4_dinov2") == 14
    assert native_patch_side("vit_tiny_patch16_224") == 16
