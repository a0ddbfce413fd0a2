"""Settings of crops that contradict the backbone are refused."""

from __future__ import annotations

import pytest

from vetdino.platform.core.errors import ConfigError
from vetdino.pretrain.batches.config import CropConfig


@pytest.mark.parametrize(("name", "side"), [("global_side", 100), ("local_side", 15)])
def test_a_crop_side_that_is_no_multiple_of_the_patch_is_refused_with_the_nearest(name, side):
    config = CropConfig(**{"global_side": 112, "local_side": 56, name: side})
    with pytest.raises(ConfigError, match=rf"crops\.{name} {side} .* patch, 14; nearest is \d+"):
        config.check(14)
