"""Settings survive JSON, and those out of range are refused by name."""

from dataclasses import replace

import pytest

from vetdino.downstream.views.config import ConsistencyConfig, SynthesisConfig
from vetdino.platform.core.config import from_json, to_json
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.core.location import Location


def test_settings_travel_as_json_and_bad_ones_are_named():
    config = ConsistencyConfig(truth=Location("archive"), radius_cm=1.5)
    assert from_json(ConsistencyConfig, to_json(config)) == config
    for bad, said in (
        ({"studies": 0}, "studies is 0"),
        ({"radius_cm": 0.0}, "radius_cm"),
        ({"strengths": ()}, "strengths"),
        ({"pixel_side": 100}, "no multiple"),
    ):
        with pytest.raises(ConfigError, match=said):
            ConsistencyConfig(**bad)


def test_settings_that_contradict_are_refused():
    for change, said in (
        ({"side": 60}, "synthesis.side is 60"),
        ({"width": 30, "heads": 4}, "no multiple of synthesis.heads 4"),
        ({"epochs": 0}, "synthesis.epochs is 0"),
    ):
        with pytest.raises(ConfigError, match=said):
            replace(SynthesisConfig(), **change).check()


def test_the_config_survives_json():
    config = SynthesisConfig(side=32, ssim_weight=0.25)
    assert from_json(SynthesisConfig, to_json(config)) == config
