"""A backbone folder gives back what was saved."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from tests.platform.models.examples import DINO, images_of
from vetdino.platform.core.config import from_json, to_json
from vetdino.platform.core.errors import CheckpointError
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


def test_weights_are_written_at_half_precision_where_that_is_wanted(tmp_path):
    backbone = random_backbone(DINO, 0)
    one = save_backbone(tmp_path / "whole", backbone)
    two = save_backbone(tmp_path / "half", backbone, "float16")
    sizes = [(tmp_path / name / WEIGHTS).stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.52 * sizes[0]
    assert one.digest != two.digest
    images = images_of(4)
    vectors = [load(tmp_path / name).tokens(images).cls for name in ("whole", "half")]
    assert torch.nn.functional.cosine_similarity(*vectors).min() > 1 - 1e-5


def test_a_weight_too_large_for_half_precision_is_refused_and_nothing_is_written(tmp_path):
    backbone = random_backbone(DINO, 0)
    with torch.no_grad():
        backbone.vit.norm.weight[0] = 1e5
    with pytest.raises(CheckpointError, match=r"vit\.norm\.weight holds numbers too large for float16"):
        save_backbone(tmp_path / "half", backbone, "float16")
    assert not (tmp_path / "half").exists()
