"""Settings of the audits that cannot be are refused by name."""

from __future__ import annotations

import pytest

from vetdino.downstream.fewshot.audits.config import AuditConfig, TttConfig
from vetdino.downstream.fewshot.learn.config import AdaptConfig
from vetdino.platform.core.errors import ConfigError


@pytest.mark.parametrize(
    ("config", "settings", "name"),
    [
        (AuditConfig, {"per_organ": -1}, "per_organ"),
        (AuditConfig, {"scans": -1}, "scans"),
        (TttConfig, {"adapt": AdaptConfig(steps=0)}, r"adapt\.steps"),
        (TttConfig, {"also": (100,)}, "also"),
        (TttConfig, {"noise": (1.0,)}, "noise"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(config, settings, name):
    with pytest.raises(ConfigError, match=name):
        config(**settings)


def test_the_default_trains_as_published():
    assert TttConfig().adapt.steps == 100
