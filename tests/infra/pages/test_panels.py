"""Example studies through a backbone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vetdino.infra.pages.panels import TILE, backbone_panels, panel_studies
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig

SMALL = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=48, heads=2, depth=2)


def test_only_studies_with_two_views_are_chosen_each_once(folders, tmp_path):
    chosen = panel_studies(tmp_path / "shards", "test", 5)
    assert [example.name for example in chosen] == ["test-0", "test-2"]  # test-1 has one view
    assert {example.views for example in chosen} == {(0, 1)}
    assert repr(chosen[0]) == "PanelStudy(test-0, views (0, 1))"


def test_a_split_without_such_a_study_is_refused(folders, tmp_path):
    with pytest.raises(ConfigError, match="two views in train"):
        panel_studies(tmp_path / "shards", "train", 2)


def test_every_backbone_has_a_row_of_four_tiles_per_study(folders, tmp_path):
    backbones = {"a": random_backbone(SMALL, 0), "b": random_backbone(SMALL, 1)}
    panels = list(backbone_panels(backbones, panel_studies(tmp_path / "shards", "test", 2)))
    assert [(title, name) for title, name, _ in panels] == [
        (f"{study}: VD and DV", name) for study in ("test-0", "test-2") for name in "ab"
    ]
    picture = cv2.imdecode(np.frombuffer(panels[0][2], np.uint8), cv2.IMREAD_COLOR)
    width = TILE * 40 // 60
    assert picture.shape == (TILE, 4 * width + 3 * 4, 3)
    red = (picture[..., 2] > 200) & (picture[..., 1] < 110) & (picture[..., 0] < 110)
    assert red[:, :width].any()  # the frame of the patch
    assert not red[:, 2 * (width + 4) :].any()  # none on the tiles of attention
