"""Teacher and student as a person names them, and what is refused."""

from __future__ import annotations

import pytest
import torch

from vetdino.platform.core.errors import CheckpointError, ConfigError
from vetdino.platform.models.backbone import Backbone, random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.convnet import ConvNet, random_convnet, save_convnet
from vetdino.platform.models.saving import save_backbone
from vetdino.pretrain.feature_distillation.config import StudentConfig
from vetdino.pretrain.feature_distillation.networks import load_teacher, student_network

VIT = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=32, depth=2, heads=2)
SMALL = StudentConfig(patch=8, width=32, depth=2, heads=2)


def test_a_bare_name_gives_random_weights_by_the_seed_with_the_settings():
    one, again, other = (student_network("vit_tiny_patch16_224", SMALL, 48, seed) for seed in (0, 0, 1))
    assert isinstance(one, Backbone)
    assert (one.side, one.patch, one.width, len(one.vit.blocks)) == (48, 8, 32, 2)
    assert one.card.digest == again.card.digest != other.card.digest


def test_a_cnn_is_built_for_one_gray_channel_at_the_crops_side():
    student = student_network("resnet10t", StudentConfig(), 64, 0)
    assert isinstance(student, ConvNet)
    tokens = student(torch.zeros(2, 1, 64, 64))
    assert (student.side, tokens.cls.shape, tokens.patches.shape, tokens.grid) == (
        64,
        (2, 512),
        (2, 4, 512),
        (2, 2),
    )


def test_a_folder_is_gone_on_with(tmp_path):
    backbone = random_backbone(VIT, 5, mean=0.4, std=0.3)
    save_backbone(tmp_path / "vit", backbone)
    student = student_network(str(tmp_path / "vit"), StudentConfig(), 64, 0)
    assert (student.side, student.card.mean, student.card.std) == (64, 0.4, 0.3)
    assert torch.equal(student.vit.blocks[0].attn.qkv.weight, backbone.vit.blocks[0].attn.qkv.weight)
    cnn = random_convnet(BackboneConfig(name="resnet10t", side=32), 5)
    save_convnet(tmp_path / "cnn", cnn)
    again = student_network(str(tmp_path / "cnn"), StudentConfig(), 64, 0)
    assert isinstance(again, ConvNet)
    assert again.side == 64
    assert torch.equal(again.net.conv1[0].weight, cnn.net.conv1[0].weight)


@pytest.mark.parametrize(
    ("source", "config", "side", "error", "said"),
    [
        ("vit_tiny_patch16_22", {}, 32, ConfigError, "student: vit_tiny_patch16_22 is no path and no timm model; the "
         "nearest is 'vit_tiny_patch16_224'"),
        ("vit_tiny_patch16_224", {}, 100, ConfigError, "crops.global_side 100 is not a multiple of the student's "
         "patch, 16; nearest is 96"),
        ("resnet10t", {"width": 64}, 64, ConfigError, "resnet10t is no Vision Transformer; leave out --backbone.width"),
        ("swin_tiny_patch4_window7_224", {}, 224, ConfigError, "is neither a Vision Transformer with a CLS token nor a "
         "CNN"),
        ("gone/backbone", {}, 32, CheckpointError, "student: gone/backbone: no backbone here"),
        ("random:vit_tiny_patch16_224", {"depth": 3}, 32, ConfigError, "has its weights and architecture; "
         "--backbone.depth is for a bare timm name"),
    ],
)  # fmt: skip
def test_what_is_no_student_is_refused_in_one_line(source, config, side, error, said):
    with pytest.raises(error) as raised:
        student_network(source, StudentConfig(**config), side, 0)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_teacher_is_shown_the_nearest_whole_number_of_its_patches(tmp_path):
    save_backbone(tmp_path / "t", random_backbone(VIT, 5))
    assert load_teacher(str(tmp_path / "t"), 50, None)[1] == 48
    assert load_teacher(str(tmp_path / "t"), 50, 96)[1] == 96
    with pytest.raises(ConfigError, match=r"teacher_side 50 is not .* the teacher's patch, 8; nearest is 48"):
        load_teacher(str(tmp_path / "t"), 32, 50)
    with pytest.raises(CheckpointError, match=r"teacher: .*no backbone here"):
        load_teacher(str(tmp_path / "gone"), 32, None)


def test_a_cnn_is_no_teacher(tmp_path):
    save_convnet(tmp_path / "cnn", random_convnet(BackboneConfig(name="resnet10t", side=32), 5))
    with pytest.raises(
        ConfigError, match=r"teacher: .*holds a resnet10t, and this takes Vision Transformers"
    ):
        load_teacher(str(tmp_path / "cnn"), 32, None)
