"""Settings of the experiments: refused values, and the defaults in which they differ."""

from __future__ import annotations

import pytest

from vetdino.downstream.fewshot.config import FewshotConfig, FewshotSegmentConfig, KshotConfig, XdomainConfig
from vetdino.platform.core.config import from_json, to_json
from vetdino.platform.core.errors import ConfigError


@pytest.mark.parametrize("shots", [(), (1, 1)])
def test_shots_are_numbers_each_once(shots):
    with pytest.raises(ConfigError, match="shots"):
        FewshotConfig(shots=shots)


def test_experiments_differ_in_shots_and_baselines():
    assert KshotConfig().shots == (1, 2, 4)
    assert KshotConfig().beside == ("alpnet", "levayz")
    assert "random" in FewshotConfig().floors
    assert "random" not in XdomainConfig().floors


def test_settings_survive_a_file():
    config = FewshotSegmentConfig(components="all")
    assert from_json(FewshotSegmentConfig, to_json(config)) == config
