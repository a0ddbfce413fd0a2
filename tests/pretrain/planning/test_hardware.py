"""What is known of GPUs, and measured of this machine."""

from __future__ import annotations

import os
from typing import get_args

from vetdino.pretrain.planning.config import HardwareName
from vetdino.pretrain.planning.hardware import GPUS, hardware


def test_every_name_is_known():
    assert {*GPUS, "cpu"} == set(get_args(HardwareName))
    assert hardware("h100", 4) is GPUS["h100"]
    assert GPUS["v100"].peak("bfloat16") is None
    assert all(gpu.device_type == "cuda" for gpu in GPUS.values())


def test_this_machine_is_measured_and_divided_among_workers():
    one, two = hardware("cpu", 1), hardware("cpu", 2)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert (one.memory, two.memory, one.device_type) == (total, total // 2, "cpu")
    assert 1e8 < (one.peak("float32") or 0) < 1e14
    assert 1e8 < one.bandwidth < 1e13
