"""Where a training starts: at random, from a backbone of somebody, or from a training of ours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import vetdino
from tests.platform.models.dinov3_files import published as dinov3
from tests.platform.models.examples import published
from tests.platform.models.transformers_files import published as rad_dino
from tests.platform.models.transformers_files import write
from vetdino.platform.core.config import to_json
from vetdino.platform.core.errors import CheckpointError, ConfigError
from vetdino.platform.data.index import StudyIndex
from vetdino.platform.models import loading
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.card import WEIGHTS
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.loading import load
from vetdino.platform.models.saving import save_backbone
from vetdino.platform.models.weights import IMAGENET
from vetdino.platform.training import checkpoint
from vetdino.pretrain.checkpoints import TEACHER, trained_config
from vetdino.pretrain.config import PretrainConfig
from vetdino.pretrain.distillation.distiller import Distiller
from vetdino.pretrain.start import starting_point


@pytest.fixture
def config(tiny, tmp_path) -> PretrainConfig:
    """A hundred steps with both heads, not yet started from anything."""
    return tiny(tmp_path / "out", {"distill.patch_weight": 1.0}, steps=100, head_warmup=0.1)


@pytest.fixture
def trained(config, tmp_path) -> Callable[..., tuple[Path, Distiller]]:
    """Makes the folder of a training: one checkpoint or more, and the newest distiller in it."""

    def make(
        made: PretrainConfig = config, steps: tuple[int, ...] = (4,), images: dict | None = None
    ) -> tuple[Path, Distiller]:
        run = tmp_path / "run"
        for step in steps:
            torch.manual_seed(step)
            distiller = Distiller(random_backbone(made.backbone, 10 + step), made.distill)
            for value in (*distiller.teacher.parameters(), *distiller.buffers()):
                value.data += 0.1 * torch.randn_like(value)
            draft = checkpoint.begin(run / "checkpoints", step)
            state = {name: value.contiguous() for name, value in distiller.state_dict().items()}
            followers = {name: value for name, value in state.items() if not name.startswith("student.")}
            save_file(followers, str(draft / TEACHER))
            (draft / "position.json").write_text(json.dumps({"images": images} if images else {}))
            (draft / "config.json").write_text(to_json(made))
            checkpoint.publish(run / "checkpoints", step)
        return run, distiller

    return make


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def begun(config: PretrainConfig) -> Distiller:
    """As a training begins."""
    torch.manual_seed(99)
    start = starting_point(config)
    distiller = Distiller(start.backbone, config.distill)
    start.load_heads_into(distiller)
    return distiller


def test_nothing_named_is_random_weights_by_the_seed_and_no_warm_up(config):
    start = starting_point(config)
    assert same(start.backbone, random_backbone(config.backbone, config.seed))
    assert not same(start.backbone, starting_point(replace(config, seed=1)).backbone)
    assert (start.has_heads, start.frozen_steps) == (False, 0)
    assert repr(start) == "StartingPoint(random weights, seed 0, no heads, backbone frozen for 0 steps)"


def test_a_backbone_folder_gives_its_weights_and_new_heads_a_warm_up(config, tmp_path):
    other = random_backbone(config.backbone, 7)
    save_backbone(tmp_path / "b", other)
    for source in (tmp_path / "b", tmp_path / "b" / WEIGHTS):
        start = starting_point(replace(config, start=str(source)))
        assert same(start.backbone, other)
        assert (start.has_heads, start.frozen_steps) == (False, 10)
    assert starting_point(replace(config, start=str(tmp_path / "b"), head_warmup=0.0)).frozen_steps == 0


def test_a_backbone_folder_is_started_from_as_its_card_says(config, tmp_path):
    other = random_backbone(config.backbone, 7, mean=0.3, std=0.6)
    other.card = replace(other.card, positions="dino")
    save_backbone(tmp_path / "b", other)
    views = [np.random.default_rng(0).integers(0, 256, (40, 48), np.uint8)]
    for side in (32, 48):  # 48 resamples the position embeddings
        expected = load(tmp_path / "b").tokens(other.prepare_many(views, side)).cls
        backbone = starting_point(replace(config, start=str(tmp_path / "b"))).backbone
        assert torch.equal(backbone.tokens(backbone.prepare_many(views, side)).cls, expected)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": 4}, "its heads is 2, that of backbone .* is 4; set --backbone.heads"),
        ({"eps": 1e-3}, "its eps is 1e-06, that of backbone .* is 0.001; set --backbone.eps"),
    ],
)
def test_what_shapes_do_not_tell_is_compared_with_the_settings(changes, said, config, trained, tmp_path):
    run, before = trained()
    save_backbone(tmp_path / "b", before.teacher.backbone)
    for source in (run, tmp_path / "b"):
        other = replace(config, backbone=replace(config.backbone, **changes), start=str(source))
        with pytest.raises(CheckpointError, match=said):
            starting_point(other)


def test_a_file_of_dino_keeps_its_rule_for_positions(config, tmp_path):
    state = published(width=192, depth=12, patch=8, grid=8)
    torch.save(state, tmp_path / "dino.pth")
    backbone = replace(config.backbone, width=192, depth=12, heads=3, side=64)
    start = starting_point(replace(config, backbone=backbone, start=str(tmp_path / "dino.pth"))).backbone
    views, before = (
        [np.random.default_rng(0).integers(0, 256, (40, 48), np.uint8)],
        load(tmp_path / "dino.pth"),
    )
    for side in (64, 96):
        expected = before.tokens(before.prepare_many(views, side)).cls
        assert torch.allclose(start.tokens(start.prepare_many(views, side)).cls, expected, atol=1e-4)


def test_a_training_starts_from_the_first_blocks_of_a_backbone(config, tmp_path):
    save_backbone(tmp_path / "b", random_backbone(replace(config.backbone, depth=3), 7))
    torch.save(published(depth=3, patch=8, grid=4), tmp_path / "dino.pth")
    views = [np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)]
    for source, width in ((tmp_path / "b", 32), (f"{tmp_path / 'dino.pth'}#heads=2", 64)):
        first = f"{source}{',' if '#' in str(source) else '#'}depth=2"
        backbone = replace(config.backbone, width=width)
        start = starting_point(replace(config, backbone=backbone, start=first)).backbone
        before = load(first)
        expected = before.tokens(before.prepare_many(views)).cls
        assert torch.allclose(start.tokens(start.prepare_many(views)).cls, expected, atol=1e-4)
        with pytest.raises(CheckpointError, match="3 blocks, not 2"):
            starting_point(replace(config, backbone=backbone, start=str(source)))
        with pytest.raises(ConfigError, match=r"a training's is --backbone\.side"):
            starting_point(replace(config, backbone=backbone, start=f"{first},side=64"))


def test_a_training_is_started_from_with_the_images_that_it_was_shown(config, trained):
    images = {"mean": 0.3, "std": 0.6, "positions": "dino"}
    run, _ = trained(images=images)
    card = starting_point(replace(config, start=str(run))).backbone.card
    assert {name: getattr(card, name) for name in images} == images


@pytest.mark.parametrize("file", ["dino.pth", "dino.safetensors"])
def test_a_foreign_file_is_folded_to_grey_and_resampled_to_the_grid(file, config, tmp_path):
    vit = timm.create_model(
        "vit_tiny_patch16_224", patch_size=8, img_size=64, embed_dim=32, depth=2, num_heads=2, num_classes=5
    ).eval()
    write = save_file if file.endswith("safetensors") else torch.save
    write(vit.state_dict(), str(tmp_path / file))
    said = "heads=2,mean=0.485/0.456/0.406,std=0.229/0.224/0.225"
    start = starting_point(replace(config, start=f"{tmp_path / file}#{said}"))
    grey = torch.rand(1, 1, 64, 64)
    image = (grey - start.backbone.card.mean) / start.backbone.card.std
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in (IMAGENET.mean, IMAGENET.std))
    with torch.no_grad():
        expected = vit.forward_features((grey - mean) / std)
        embedded = vit.patch_embed.proj((grey - mean) / std)
        found = start.backbone.vit.patch_embed.proj(image)
    assert torch.allclose(found, embedded, atol=1e-5)
    # The grid of 8 x 8 was resampled to 4 x 4 and is resampled back here: patches at the border lose a little.
    found = start.backbone.tokens(image).cls
    assert torch.cosine_similarity(found, expected[:, 0]).item() > 0.98
    assert start.frozen_steps == 10


@pytest.mark.parametrize("inner", ["", "checkpoints/step_00000004"])
def test_a_training_gives_its_teacher_to_student_and_teacher_with_heads_and_centres(inner, config, trained):
    run, before = trained()
    source = replace(config, start=str(run / inner))
    start = starting_point(source)
    assert (start.has_heads, start.frozen_steps) == (True, 0)
    after = begun(source)
    assert same(after.teacher, before.teacher)
    assert same(after.student, before.teacher)
    assert torch.equal(after.targets.centre_K, before.targets.centre_K)
    assert torch.equal(after.patch_targets.centre_K, before.patch_targets.centre_K)
    assert before.targets.centre_K.any()
    images = torch.randint(0, 256, (2, 3, 1, 32, 32), dtype=torch.uint8)
    hidden = torch.rand(2, 3, 16) < 0.5
    answers = [learner(images, None, hidden, False).cls_SBK for learner in (before.teacher, after.student)]
    assert torch.equal(*answers)


def test_the_newest_whole_checkpoint_is_taken_and_a_damaged_one_passed_over_with_a_warning(config, trained):
    run, newest = trained(steps=(2, 4))
    assert same(begun(replace(config, start=str(run))).teacher, newest.teacher)
    damaged = run / "checkpoints" / "step_00000004" / TEACHER
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.warns(RuntimeWarning, match="differs from its seal; the checkpoint is damaged"):
        older = begun(replace(config, start=str(run)))
    assert not same(older.teacher, newest.teacher)
    with pytest.raises(CheckpointError, match="differs from its seal"):
        starting_point(replace(config, start=str(damaged.parent)))
    (run / "checkpoints" / "step_00000002" / "position.json").unlink()
    with (
        pytest.warns(RuntimeWarning, match="damaged"),
        pytest.raises(CheckpointError, match="none of its checkpoints is whole; start from a copy"),
    ):
        starting_point(replace(config, start=str(run)))


def test_a_head_that_is_not_asked_for_is_left_behind(config, trained):
    run, before = trained()
    views_only = replace(config, distill=replace(config.distill, patch_weight=0.0), start=str(run))
    start = starting_point(views_only)
    assert (start.has_heads, start.frozen_steps) == (True, 0)
    assert not any(name.startswith("patch_head.") for name in start.heads)
    assert same(begun(views_only).student.head, before.teacher.head)


def test_a_head_that_did_not_come_begins_anew_after_a_warm_up(config, trained):
    views_only = replace(config, distill=replace(config.distill, patch_weight=0.0))
    run, before = trained(views_only)
    start = starting_point(replace(config, start=str(run)))
    assert (start.has_heads, start.frozen_steps) == (True, 10)
    after = begun(replace(config, start=str(run)))
    assert same(after.student.head, before.teacher.head)
    assert same(after.student.patch_head, after.teacher.patch_head)


def test_centres_of_another_kind_of_targets_are_no_hindrance(config, trained):
    run, before = trained()
    sinkhorn = replace(config, distill=replace(config.distill, targets="sinkhorn"), start=str(run))
    assert same(begun(sinkhorn).student, before.teacher)


@pytest.mark.parametrize(
    ("setting", "there", "here"), [("prototypes", 32, 64), ("hidden", 32, 48), ("bottleneck", 16, 8)]
)
def test_heads_of_another_size_are_refused_with_both_sizes(setting, there, here, config, trained):
    run, _ = trained()
    head = replace(config.distill.head, **{setting: here})
    other = replace(config, distill=replace(config.distill, head=head), start=str(run))
    said = (
        rf"its head has {setting} {there}, distill\.head\.{setting} is {here}; set --distill\.head\.{setting}"
    )
    with pytest.raises(ConfigError, match=said):
        starting_point(other)


@pytest.mark.parametrize(("changes", "why"), [({"width": 64}, "is .*, not"), ({"depth": 3}, "is missing")])
def test_another_architecture_is_refused_with_what_differs(changes, why, config, trained, tmp_path):
    run, before = trained()
    save_backbone(tmp_path / "b", before.teacher.backbone)
    for source in (run, tmp_path / "b"):
        other = replace(config, backbone=replace(config.backbone, **changes), start=str(source))
        with pytest.raises(
            CheckpointError,
            match=f"holds another architecture than backbone vit_tiny.*{why}.*; set --backbone",
        ):
            starting_point(other)


def test_what_is_not_there_is_refused(config, tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(CheckpointError, match=r"start: .*no backbone here.*training's folder"):
            starting_point(replace(config, start=str(path)))
    with pytest.raises(ConfigError, match="random:vit_tiny_patch16_224 for random weights or timm:"):
        starting_point(replace(config, start="vit_tiny_patch16_224"))
    (tmp_path / "no.pth").write_text("no weights")
    with pytest.raises(CheckpointError, match="cannot be read as plain weights"):
        starting_point(replace(config, start=str(tmp_path / "no.pth")))


def test_published_weights_of_a_timm_name_are_adopted_or_their_absence_is_explained(config, monkeypatch):
    shape = {"patch_size": 8, "img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}
    published = timm.create_model("vit_tiny_patch16_224", num_classes=0, **shape)
    make, requests = timm.create_model, []

    def fetched(name, pretrained=False, **settings):
        requests.append((name, pretrained))
        return published if pretrained else make(name, **settings)

    monkeypatch.setattr("timm.create_model", fetched)
    monkeypatch.setattr(loading, "native_config", lambda name: replace(config.backbone, name=name))
    start = starting_point(replace(config, start="timm:vit_tiny_patch16_224"))
    assert ("vit_tiny_patch16_224", True) in requests
    assert torch.equal(start.backbone.vit.pos_embed, published.pos_embed)
    assert start.frozen_steps == 10
    monkeypatch.undo()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"timm:vit_tiny_patch16_224: .*PATH"):
        starting_point(replace(config, start="timm:vit_tiny_patch16_224"))
    with pytest.raises(ConfigError, match="the nearest is 'vit_tiny_patch16_224'"):
        starting_point(replace(config, start="timm:vit_tiny_pach16_224"))


def test_a_checkpoint_is_looked_for_before_the_finished_backbone(config, trained):
    run, before = trained()
    save_backbone(run / "backbone", random_backbone(config.backbone, 3))
    assert same(begun(replace(config, start=str(run))).student, before.teacher)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError, match="no backbone here"):
        starting_point(replace(config, start=str(run)))
    assert starting_point(replace(config, start=str(run / "backbone"))).frozen_steps == 10


def test_rad_dinos_file_is_started_from_as_transformers_stores_it(config, tmp_path):
    file = write(tmp_path / "rad-dino", rad_dino())
    shape = {
        "name": "vit_small_patch14_dinov2",
        "patch": 14,
        "width": 48,
        "depth": 2,
        "heads": 4,
        "eps": 1e-4,
    }
    changed = replace(config, backbone=BackboneConfig(side=56, **shape), start=str(file))
    start, before = starting_point(changed).backbone, load(file)
    views = [np.random.default_rng(0).integers(0, 256, (40, 48), np.uint8)]
    tokens, expected = (one.tokens(one.prepare_many(views)) for one in (start, before))
    # Color is folded for our own mean and std, exactly: the same picture gives the same tokens.
    torch.testing.assert_close(tokens.cls, expected.cls, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tokens.patches, expected.patches, atol=1e-4, rtol=1e-4)
    wrong = replace(changed, backbone=replace(changed.backbone, heads=6))
    with pytest.raises(
        CheckpointError, match=r"its heads is 4, that of backbone .* is 6; set --backbone.heads"
    ):
        starting_point(wrong)


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2s_file_is_started_from_as_torch_hub_has_it(registers, config, tmp_path):
    width, name = 384, f"vit_small_patch14_{'reg4_' if registers else ''}dinov2"
    torch.save(
        published(width=width, depth=12, patch=14, dinov2=True, registers=registers), tmp_path / "dinov2.pth"
    )
    changed = replace(config, backbone=BackboneConfig(name=name, side=56), start=str(tmp_path / "dinov2.pth"))
    start, before = starting_point(changed).backbone, load(tmp_path / "dinov2.pth")
    assert start.prefix == 1 + registers
    views = [np.random.default_rng(0).integers(0, 256, (40, 48), np.uint8)]
    tokens, expected = (one.tokens(one.prepare_many(views, 56)) for one in (start, before))
    torch.testing.assert_close(tokens.cls, expected.cls, atol=1e-4, rtol=1e-4)


def test_dinov3s_file_is_started_from_with_its_own_periods_and_mask_token(config, tmp_path):
    torch.save(dinov3(), tmp_path / "dinov3.pth")
    shape = BackboneConfig(
        name="vit_small_patch16_dinov3_qkvb", side=32, patch=8, width=48, depth=3, heads=3, drop_path=0.1
    )
    changed = replace(config, backbone=shape, start=str(tmp_path / "dinov3.pth"))
    start, before = starting_point(changed).backbone, load(tmp_path / "dinov3.pth")
    views = [np.random.default_rng(0).integers(0, 256, (40, 48), np.uint8)]
    tokens, expected = (one.tokens(one.prepare_many(views, 32)) for one in (start, before))
    torch.testing.assert_close(tokens.cls, expected.cls, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tokens.patches, expected.patches, atol=1e-4, rtol=1e-4)
    assert start.card.positions == "dino"
    assert torch.equal(start.mask_token, before.mask_token)
    for changes, said in (
        ({"name": "vit_small_patch14_reg4_dinov2"}, "pos_embed is missing"),
        ({"name": "vit_small_patch16_dinov3"}, "blocks.0.attn.qkv.bias has no place"),
        ({"eps": 1e-6}, "its eps is 1e-05, that of backbone .* is 1e-06"),
    ):
        with pytest.raises(CheckpointError, match=said):
            starting_point(replace(changed, backbone=replace(shape, **changes)))


@pytest.mark.slow
def test_rad_dinos_file_embeds_studies_as_it_stands(shards, tmp_path):
    file = write(tmp_path / "rad-dino", rad_dino())
    features = vetdino.embed(file, shards, tmp_path / "features", splits=("val",))
    assert features.vectors.shape == (6, 48)
    views = StudyIndex(shards, "val").load(0)
    vectors = load(file).tokens(load(file).prepare_many([view.decode().pixels for view in views.views])).cls
    unit = torch.nn.functional.normalize(torch.nn.functional.normalize(vectors, dim=-1).mean(0), dim=-1)
    row = list(features.keys).index(views.key)
    assert np.allclose(features.vectors[row], unit.numpy(), atol=1e-5)


def test_a_distillation_is_no_start_but_its_backbone_folder_is(config, trained, tmp_path):
    run, _ = trained()
    text = (run / "checkpoints" / "step_00000004" / "config.json").read_text()
    (run / "checkpoints" / "step_00000004" / "config.json").write_text(
        text.replace("{", '{"student": "x",', 1)
    )
    with pytest.raises(CheckpointError, match=r"is of a distillation.*give its backbone folder"):
        trained_config(run / "checkpoints" / "step_00000004", PretrainConfig)
