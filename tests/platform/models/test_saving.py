"""A backbone folder gives back what was saved."""

from __future__ import annotations

import torch

from tests.platform.models.examples import DINO, images_of
from vetdino.platform.core.config import from_json, to_json
from vetdino.platform.models.backbone import (
    random_backbone,
)
from vetdino.platform.models.card import WEIGHTS
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


def test_half_precision_halves_the_file_and_hardly_moves_the_answer(tmp_path):
    backbone = random_backbone(DINO, 0)
    save_backbone(tmp_path / "whole", backbone)
    save_backbone(tmp_path / "half", backbone, half=True)
    sizes = [(tmp_path / name / WEIGHTS).stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    again = load(tmp_path / "half")
    assert all(p.dtype == torch.float32 for p in again.parameters())
    assert torch.allclose(again.tokens(images_of(2)).cls, backbone.tokens(images_of(2)).cls, atol=2e-2)
