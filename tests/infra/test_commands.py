"""The commands' classes: what they read, and what they hand to the rooms."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vetdino.infra.cli import COMMANDS
from vetdino.infra.commands.arguments import Command
from vetdino.infra.commands.embed import Embed
from vetdino.infra.commands.phantom import KINDS, PhantomRadiographs
from vetdino.infra.commands.pretrain import Pretrain
from vetdino.platform.core.config import cli_config, subconfig
from vetdino.platform.core.errors import ConfigError, DataError, FeaturesError
from vetdino.platform.core.location import Location
from vetdino.platform.data.manifest import Manifest, save_manifest
from vetdino.platform.data.shards import load_manifest
from vetdino.platform.measure.features import load_features
from vetdino.platform.models.loading import load
from vetdino.pretrain.config import PretrainConfig
from vetdino.pretrain.recipes import RECIPES, recipe

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_dataclass_with_a_docstring_and_a_run(name):
    command = COMMANDS[name].load()
    assert is_dataclass(command)
    assert issubclass(command, Command)
    assert command.__doc__
    assert not command.__doc__.startswith(f"{command.__name__}(")  # the one that dataclass makes up
    assert command.run is not Command.run


def test_a_command_without_a_run_is_our_mistake():
    with pytest.raises(NotImplementedError):
        Command().run()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_on_the_command_line_is_the_recipe(name):
    start, rest, more = Pretrain.parse_start([name, "--seed", "3"])
    assert (rest, more) == (["--seed", "3"], name)
    assert subconfig(PretrainConfig, start) == recipe(name)
    changed = cli_config(start, rest, "prog")
    assert [f.name for f in fields(start) if getattr(start, f.name) != getattr(changed, f.name)] == ["seed"]


@pytest.mark.parametrize("arguments", [[], ["--steps", "3", "small"]])
def test_a_pretraining_without_a_recipe_is_refused(arguments):
    with pytest.raises(ConfigError, match="recipe comes first"):
        Pretrain.parse_start(arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_phantom_chooses_its_settings(kind):
    assert PhantomRadiographs.parse_start(["out", "--kind", kind])[0] is KINDS[kind]


def test_ingest_ends_with_one_line_of_what_was_read_written_refused_and_found(tmp_path, capfd):
    from vetdino.infra import cli

    pictures = np.random.default_rng(0).integers(0, 256, (2, 40, 40)).astype(np.uint8)
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    table = tmp_path / "t.csv"
    table.write_text("path,patient,study,mass\n0.png,p,s,yes\n1.png,q,t,NA\n2.png,q,t,0\n")
    arguments = ["ingest", str(table), str(tmp_path / "out"), "--table.labels", "*", "--workers", "1"]
    assert cli.main([*arguments, "--max-refused", "0.3"]) == 1
    assert "1 of 3 files are refused (MISSING_FILE 1)" in capfd.readouterr().err
    assert cli.main(arguments) == 0
    output = capfd.readouterr()
    assert output.out == f"{tmp_path / 'out'}\n"
    assert output.err.splitlines()[-1] == (
        "read 3 files: wrote 2 views of 2 studies; refused 1 (MISSING_FILE 1); 1 finding (mass), "
        "2 of 2 studies labelled"
    )


def test_embedding_of_splits_without_studies_is_refused_before_the_backbone_is_looked_for(tmp_path):
    (tmp_path / "shards").mkdir()
    save_manifest(tmp_path / "shards", Manifest(1, "none", (), (), {}, "c"))
    embed = Embed(
        backbone="nowhere",
        shards=Location(tmp_path / "shards"),
        out=Location(tmp_path / "out"),
        splits=("val",),
    )
    with pytest.raises(FeaturesError, match=r"no studies in val \(there are train 0, val 0, test 0"):
        embed.run()
    with pytest.raises(ConfigError, match="batch 0"):
        replace(embed, batch=0).run()


@pytest.mark.slow
def test_embedding_writes_what_the_shards_hold(tmp_path):
    from vetdino.infra import cli
    from vetdino.infra.commands.demo import SHIPPED

    archive, shards = str(tmp_path / "archive"), str(tmp_path / "shards")
    assert cli.main(["phantom", archive, "--studies", "4", "--side", "64"]) == 0
    assert cli.main(["ingest", archive + "/dicom", shards]) == 0
    shallow = f"{SHIPPED}#depth=4,side=96"
    runs = {
        "study": {"backbone": str(SHIPPED)},
        "view": {"backbone": str(SHIPPED), "level": "view"},
        "shallow": {"backbone": shallow},
        "patch": {"backbone": shallow, "level": "patch"},
    }
    for name, settings in runs.items():
        command = Embed(shards=Location(shards), out=Location(tmp_path / name), **settings)
        assert command.run() == tmp_path / name
    manifest = load_manifest(Path(shards))
    tables = {name: load_features(tmp_path / name) for name in runs}
    assert len(tables["study"].keys) == manifest.counts["studies"] == 4
    assert len(tables["view"].keys) > 4
    assert tables["shallow"].backbone == tables["patch"].backbone == load(shallow).card.digest
    assert tables["shallow"].backbone != tables["study"].backbone
    assert not np.allclose(tables["shallow"].vectors, tables["study"].vectors, atol=1e-2)
    assert tables["patch"].vectors.shape[1:3] == (6, 6)  # 96 pixels, patches of 16


@pytest.mark.parametrize(
    ("address", "gpus", "settings", "on_ray"),
    [
        (None, 0, {}, False),
        (None, 1, {}, False),
        (None, 2, {}, True),
        (None, 2, {"device": "cpu"}, False),
        (None, 0, {"workers": 2}, True),
        ("10.0.0.1:6379", 0, {}, True),
        ("", 0, {}, False),
    ],
)
def test_embedding_uses_ray_where_it_runs_or_there_is_more_than_one_process_to_start(
    monkeypatch, address, gpus, settings, on_ray
):
    import torch

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert Embed(backbone="b", shards=Location("s"), out=Location("o"), **settings)._uses_ray() == on_ray


def test_the_size_of_patch_tokens_is_said_before_they_are_made_and_refused_where_it_does_not_fit(
    tmp_path, capsys, monkeypatch
):
    import shutil

    from tests.platform.data.written import written
    from vetdino.platform.models.backbone import random_backbone
    from vetdino.platform.models.config import BackboneConfig
    from vetdino.platform.models.saving import save_backbone

    written(tmp_path / "shards", 5)
    tiny = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=48, heads=2, depth=2)
    save_backbone(tmp_path / "backbone", random_backbone(tiny, seed=3))
    out = tmp_path / "patches"
    embed = Embed(
        backbone=str(tmp_path / "backbone"),
        shards=Location(tmp_path / "shards"),
        out=Location(out),
        level="patch",
        device="cpu",
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(
        DataError, match="views take 0 MiB, 0 MiB are free; choose another disk, or --level view"
    ):
        embed.run()
    assert not list(out.glob("*"))
    monkeypatch.undo()
    embed.run()
    views = len(load_features(out))
    assert f"the patch tokens of {views} views take 0 MiB" in capsys.readouterr().err
    assert load_features(out).vectors.shape == (views, 4, 4, 48)


@pytest.mark.slow
def test_embedding_on_two_actors_writes_what_one_process_does(tmp_path):
    import subprocess
    import sys

    from tests.platform.measure.test_embedding import contents, shards
    from vetdino.infra.commands.demo import SHIPPED

    shards(tmp_path / "shards", {"train": 12, "test": 4})
    for name, more in (("alone", []), ("actors", ["--workers", "2"])):
        words = [
            "embed",
            str(SHIPPED),
            str(tmp_path / "shards"),
            str(tmp_path / name),
            "--device",
            "cpu",
            *more,
        ]
        done = subprocess.run(
            [sys.executable, "-m", "vetdino", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert ("starting Ray" in done.stderr) == bool(more)
        assert done.stdout == f"{tmp_path / name}\n"
    assert contents(tmp_path / "alone") == contents(tmp_path / "actors")


def test_verify_says_that_all_is_well_or_which_shard_changed(tmp_path, capsys, caplog):
    from tests.platform.data.written import written
    from vetdino.infra import cli

    written(tmp_path, 3)
    assert cli.main(["verify", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "1 shards, 3 studies: all as they were written\n"
    (tmp_path / "index.parquet").unlink()
    assert cli.main(["verify", str(tmp_path)]) == 0
    assert "no index here; made from 1 shards" in caplog.text
    assert capsys.readouterr().out == "1 shards, 3 studies: all as they were written\n"
    assert (tmp_path / "index.parquet").is_file()
    path = tmp_path / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert cli.main(["verify", str(tmp_path)]) == 1
    assert "train-000000.tar" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_ingest_leaves_a_report_and_says_whether_pixels_were_searched(tmp_path, capsys):
    archive = PhantomRadiographs(out=Location(tmp_path / "dogs"), studies=2, side=64).run()
    out = (
        COMMANDS["ingest"]
        .load()(source=Location(archive / "dicom"), out=Location(tmp_path / "shards"), workers=1)
        .run()
    )
    assert "Ingest: archive" in (out / "report.html").read_text()
    *_, searched, wrote = capsys.readouterr().err.splitlines()
    assert "views of 2 studies" in wrote
    assert (
        searched == "no pixels were searched for burned-in text"
    )  # the generator says NO in BurnedInAnnotation
