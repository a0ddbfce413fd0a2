"""Settings that cannot be are refused by name; settings travel as JSON and on the command line."""

import math

import pytest

from vetdino.downstream.ultrasound.config import CosegmentConfig, TokencutConfig, ZeroshotSegmentConfig
from vetdino.platform.core.config import cli_config, from_json, to_json
from vetdino.platform.core.errors import ConfigError


@pytest.mark.parametrize(
    "setting",
    [
        {"clusters": 0},
        {"most": 0},
        {"every": 0},
        {"tries": 0},
        {"band": 0},
        {"seed": -1},
        {"elbow": 1.2},
        {"share": 0.0},
        {"share": 1.1},
        {"tau": 0.0},
        {"tau": math.nan},
        {"heads": (-1,)},
        {"heads": (1, 1)},
        {"saliency": "bone", "vote": "mean"},
        {"saliency": "auto", "vote": "literal"},
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(setting):
    with pytest.raises(ConfigError, match=f"cosegment.{next(iter(setting))} is "):
        CosegmentConfig(**setting)


def test_the_tau_of_tokencut_is_a_setting_and_a_cosine():
    words = ["--tokencut.tau", "0.9"]
    assert cli_config(ZeroshotSegmentConfig, words, "test").tokencut == TokencutConfig(tau=0.9)
    for tau in (1.1, -1.1, math.nan):
        with pytest.raises(ConfigError, match=r"tokencut\.tau is "):
            TokencutConfig(tau=tau)


def test_settings_travel_by_json_and_command_line():
    config = CosegmentConfig(clusters=7, heads=(0, 2, 4, 5), vote="literal", refine="grabcut")
    assert from_json(CosegmentConfig, to_json(config)) == config
    words = ["--clusters", "7", "--heads", "0", "2", "4", "5", "--vote", "literal", "--refine", "grabcut"]
    assert cli_config(CosegmentConfig, words, "test") == config
