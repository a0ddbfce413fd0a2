"""Settings of the optimizer that contradict each other or the device are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vetdino.platform.core.errors import ConfigError
from vetdino.pretrain.distillation.config import OptimConfig

CONFIG = OptimConfig(layer_decay=0.5, patch_embed=0.2)


@pytest.mark.parametrize(
    ("settings", "device", "said"),
    [
        ({"compile": True}, "cpu", "optim.compile needs a GPU, the device is cpu"),
        ({"compile": True, "zero": 3}, "cuda", "optim.compile and optim.zero 3"),
        ({"clip": 0.0}, "cpu", "optim.clip 0.0 must be above 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, device, said):
    with pytest.raises(ConfigError, match=said):
        replace(CONFIG, **settings).check(device)


def test_settings_that_agree_pass():
    CONFIG.check("cpu")
    replace(CONFIG, compile=True, checkpoint_activations=True).check("cuda")


@pytest.mark.parametrize(("micro_batch", "parts"), [(0, 1), (8, 1), (4, 2), (1, 8)])
def test_a_workers_share_is_looked_at_in_equal_parts(micro_batch, parts):
    assert replace(CONFIG, micro_batch=micro_batch).micro_batches(batch=16, world=2) == parts


@pytest.mark.parametrize(("micro_batch", "nearest"), [(3, 2), (9, 8), (-1, 1)])
def test_parts_that_would_not_be_equal_are_refused(micro_batch, nearest):
    with pytest.raises(ConfigError, match=f"micro_batch {micro_batch} .*workers 2.*nearest is {nearest}"):
        replace(CONFIG, micro_batch=micro_batch).micro_batches(batch=16, world=2)
