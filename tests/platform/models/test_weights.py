"""Other people's weights files: which tensors are read, and what is refused."""

from __future__ import annotations

import zipfile
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from tests.platform.models.examples import chunked, prefixed, published, training_of_dino
from vetdino.platform.core.errors import CheckpointError, ConfigError
from vetdino.platform.models.loading import load
from vetdino.platform.models.weights import file_state, published_state


@pytest.mark.parametrize("pile", [0, 1, 2, 3, 4, 5, 6, 7])
def test_a_network_is_found_under_any_wrapping_and_of_two_the_teacher(pile, tmp_path):
    teacher = published()
    student = {name: value + 1 for name, value in teacher.items()}
    piles = [
        teacher,
        training_of_dino(teacher),
        {"student": student, "teacher": prefixed("module.backbone.", teacher)},
        {"model": prefixed("module.student.", student) | prefixed("module.teacher.backbone.", teacher)},
        {"state_dict": {"teacher": {"module": prefixed("backbone.", teacher)}}, "epoch": 3},
        {"teacher": prefixed("backbone.", chunked(teacher)) | {"dino_head.mlp.0.weight": torch.zeros(3)}},
        {"student": prefixed("module.backbone.", teacher)},
        prefixed("teacher.", teacher) | prefixed("student.", student) | {"logit": torch.zeros(2)},
    ]
    torch.save(piles[pile], tmp_path / "a.pth")
    found = file_state(tmp_path / "a.pth")
    assert found.keys() >= teacher.keys()
    assert all(torch.equal(found[name], value) for name, value in teacher.items())
    assert torch.equal(load(f"{tmp_path / 'a.pth'}#heads=1").vit.cls_token, teacher["cls_token"])


def test_a_training_checkpoint_from_the_days_of_numpy_1_is_read(tmp_path):
    torch.save(training_of_dino(published()), tmp_path / "new.pth")
    with zipfile.ZipFile(tmp_path / "new.pth") as new, zipfile.ZipFile(tmp_path / "old.pth", "w") as old:
        for entry in new.infolist():
            data = new.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert b"cnumpy._core.multiarray\n" in data
                data = data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
            old.writestr(entry, data)
    assert torch.equal(file_state(tmp_path / "old.pth")["norm.bias"], published()["norm.bias"])


def test_what_lies_beside_the_tensors_and_is_not_known_to_be_harmless_is_named(tmp_path):
    torch.save({"model": published(), "where": Path("a")}, tmp_path / "a.pth")
    with pytest.raises(
        CheckpointError, match=r"a\.pth: cannot be read .*it holds \S*Path; save its tensors alone"
    ):
        load(tmp_path / "a.pth")
    assert Namespace not in torch.serialization.get_safe_globals()  # let in for the reading alone


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_whole(half, tmp_path):
    torch.save({name: value.to(half) for name, value in published().items()}, tmp_path / "a.pth")
    assert {value.dtype for value in file_state(tmp_path / "a.pth").values()} == {torch.float32}
    assert load(f"{tmp_path / 'a.pth'}#heads=1").mask_token.dtype == torch.float32


def test_a_file_that_holds_no_vit_is_refused_in_one_line(tmp_path):
    files = {
        "text.pth": lambda path: path.write_text("no weights"),
        "text.safetensors": lambda path: path.write_text("no weights"),
        "list.pth": lambda path: torch.save([torch.zeros(2)], path),
        "resnet.pth": lambda path: torch.save({"conv1.weight": torch.zeros(2)}, path),
        "half.pth": lambda path: torch.save(
            {"patch_embed.proj.weight": torch.zeros(64, 3, 8, 8), "pos_embed": torch.zeros(1, 17, 64)}, path
        ),
    }
    for name, make in files.items():
        make(tmp_path / name)
        with pytest.raises(CheckpointError) as refusal:
            load(tmp_path / name)
        assert name in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"model": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(CheckpointError, match="cannot be read as plain weights"):
        load(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def test_a_failed_download_names_the_file_to_give_instead(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host\nand a long story")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(CheckpointError, match="no route to host") as refusal:
        published_state("vit_tiny_patch16_224")
    assert "\n" not in str(refusal.value)
    page = "https://huggingface.co/timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert f"download model.safetensors from {page}" in str(refusal.value)
    assert "give its PATH instead" in str(refusal.value)
    with pytest.raises(CheckpointError, match="random:vit_base_patch16_18x2_224 has random"):
        published_state("vit_base_patch16_18x2_224")
    with pytest.raises(ConfigError, match="nearest is 'vit_tiny_patch16_224'"):
        published_state("vit_tiny_pach16_224")
