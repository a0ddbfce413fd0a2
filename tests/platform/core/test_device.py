"""Which device a choice comes to."""

from __future__ import annotations

import pytest
import torch

from vetdino.platform.core.device import resolve_device
from vetdino.platform.core.errors import ConfigError


@pytest.mark.parametrize(
    ("choice", "gpu", "device"),
    [
        ("cpu", False, "cpu"),
        ("cpu", True, "cpu"),
        ("auto", False, "cpu"),
        ("auto", True, "cuda"),
        ("cuda", True, "cuda"),
    ],
)
def test_auto_takes_a_gpu_where_there_is_one(monkeypatch, choice, gpu, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert resolve_device(choice) == torch.device(device)


def test_a_gpu_that_there_is_not_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"finetune\.device"):
        resolve_device("cuda", "finetune.device")
