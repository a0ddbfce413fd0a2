"""Settings that cannot be are refused by name, and reading settings loads no heavy library."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vetdino.downstream.fewshot.learn.config import AdaptConfig, EpisodeConfig, LearnConfig, TrainConfig
from vetdino.platform.core.errors import ConfigError


@pytest.mark.parametrize(
    ("config", "setting", "value"),
    [
        (LearnConfig, "rank", 0),
        (LearnConfig, "rank", -1),
        (EpisodeConfig, "zoom", (0.0, 1.0)),
        (EpisodeConfig, "gamma", (2.0, 1.0)),
        (EpisodeConfig, "shift", -1.0),
        (EpisodeConfig, "min_size", 0),
        (EpisodeConfig, "rotation", 90.0),
        (TrainConfig, "steps", 0),
        (TrainConfig, "lr", 0.0),
        (TrainConfig, "momentum", 1.0),
        (TrainConfig, "decay", 0.0),
        (TrainConfig, "record_every", 0),
        (TrainConfig, "seed", -1),
        (AdaptConfig, "steps", -1),
        (AdaptConfig, "rate", 0.0),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(config, setting, value):
    with pytest.raises(ConfigError, match=setting):
        config(**{setting: value})


def test_groups_make_no_sense_in_setting_1():
    with pytest.raises(ConfigError, match="groups"):
        TrainConfig(setting="I", groups=("liver",))


def test_reading_the_settings_loads_neither_torch_nor_numpy():
    program = (
        "import sys, vetdino.downstream.fewshot.audits.config, vetdino.serving.config, vetdino.infra.pages.config;"
        "print(sorted({'torch', 'numpy', 'pandas', 'scipy', 'timm'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
