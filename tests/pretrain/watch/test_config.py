"""Limits and counts that mean nothing are refused."""

from __future__ import annotations

import re

import pytest

from vetdino.platform.core.config import cli_config, from_json, to_json
from vetdino.platform.core.errors import ConfigError
from vetdino.pretrain.watch.config import AlarmConfig, ProbeConfig


def test_the_settings_are_the_same_on_the_command_line_and_in_a_file():
    config = cli_config(AlarmConfig(), ["--policy", "rewind", "--cosine", "0.9"], "test")
    assert config == AlarmConfig(policy="rewind", cosine=0.9)
    assert from_json(AlarmConfig, to_json(config)) == config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patience": 0}, "alarms.patience 0 must be at least 1"),
        ({"trials": 0}, "alarms.trials 0 must be at least 1"),
        ({"rewinds": -1}, "alarms.rewinds -1 must be 0 or more"),
        ({"cosine": 1.5}, "alarms.cosine 1.5 must lie between 0 and 1"),
        ({"certain": 0.99}, "alarms.certain 0.99 must lie below alarms.uniform 0.98"),
    ],
)
def test_limits_that_mean_nothing_are_refused(changes, said):
    AlarmConfig().check()
    with pytest.raises(ConfigError, match=re.escape(said)):
        AlarmConfig(**changes).check()


@pytest.mark.parametrize("name", ["bank", "queries", "views", "k"])
def test_a_trial_on_nothing_is_refused(name):
    ProbeConfig().check()
    with pytest.raises(ConfigError, match=re.escape(f"probe.{name} 0 must be at least 1")):
        ProbeConfig(**{name: 0}).check()
