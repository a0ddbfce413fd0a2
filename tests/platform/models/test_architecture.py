"""timm's networks by their settings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.platform.models.examples import DINO, DINOV2, REGISTERED, images_of
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.models.backbone import random_backbone


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"side": 30}, "backbone.side 30 is no multiple"), ({"heads": 5}, "cannot be built so")],
)
def test_settings_that_make_no_vit_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        random_backbone(replace(DINO, **changes), 0)


def test_an_architecture_has_the_registers_that_the_settings_say():
    assert random_backbone(DINO, 0).prefix == 1
    assert random_backbone(DINOV2, 0).prefix == 5
    assert random_backbone(replace(DINOV2, registers=2), 0).prefix == 3
    assert random_backbone(replace(DINOV2, registers=0), 0).prefix == 1
    tokens = random_backbone(REGISTERED, 0).tokens(images_of(2))
    assert tokens.patches.shape == (2, 16, 64)
