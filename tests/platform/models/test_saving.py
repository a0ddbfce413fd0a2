"""A backbone folder gives back what was saved."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from safetensors.torch import save_file

from tests.platform.models.examples import DINO, images_of
from vetdino.platform.core.config import from_json, to_json
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.card import CARD, WEIGHTS
from vetdino.platform.models.loading import load
from vetdino.platform.models.saving import save_backbone


def test_a_backbone_folder_gives_back_what_was_saved(tmp_path, backbone):
    card = save_backbone(tmp_path / "b", backbone)
    again = load(tmp_path / "b")
    assert not again.training
    assert again.card == card
    assert from_json(type(card), to_json(card)) == card
    images = images_of(2)
    assert torch.equal(again.tokens(images).patches, backbone.tokens(images).patches)


def test_a_folder_at_half_precision_is_read_as_float32(tmp_path):
    backbone = random_backbone(DINO, 0)
    state = {name: value.detach().half() for name, value in backbone.state_dict().items()}
    card = save_backbone(tmp_path, backbone)
    save_file(state, tmp_path / WEIGHTS)
    sha256 = hashlib.sha256((tmp_path / WEIGHTS).read_bytes()).hexdigest()
    (tmp_path / CARD).write_text(to_json(replace(card, weights_sha256=sha256)))
    again = load(tmp_path)
    assert {value.dtype for value in again.parameters()} == {torch.float32}
    assert torch.allclose(again.tokens(images_of(2)).cls, backbone.tokens(images_of(2)).cls, atol=2e-2)
