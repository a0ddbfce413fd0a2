"""`vetdino zeroshot`: what it says, what it leaves, and how it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vetdino.infra import cli
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.loading import load
from vetdino.platform.models.saving import save_backbone

pytestmark = pytest.mark.slow

QUICK = ("--short", "32", "--resamples", "20", "--cosegment.clusters", "3", "--cosegment.tries", "1")


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with a backbone `net` and a folder `frames` of two domains of three frames each."""
    root = tmp_path_factory.mktemp("zeroshot")
    config = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=48, heads=2, depth=2)
    save_backbone(root / "net", random_backbone(config, seed=3))
    random = np.random.default_rng(0)
    for domain in ("arm", "leg"):
        for number in range(3):
            pixels = random.integers(0, 90, (40, 48), dtype=np.uint8)
            mask = np.zeros((40, 48), np.uint8)
            mask[10 + number : 22, 12:30] = 255
            for part, drawn in (("images", np.maximum(pixels, mask // 2)), ("masks", mask)):
                (root / "frames" / domain / part).mkdir(parents=True, exist_ok=True)
                Image.fromarray(drawn).save(root / "frames" / domain / part / f"{number}.png")
    return root


def refused(capsys, *arguments: str) -> str:
    """The one line of a command that ends with exit code 1."""
    assert cli.main(("zeroshot", *arguments)) == 1
    said = capsys.readouterr()
    assert said.out == ""
    return said.err.splitlines()[-1]


def test_a_run_leaves_files_and_one_run_in_mlflow_with_the_backbones_digest(here, capsys):
    from mlflow import MlflowClient

    out = here / "runs" / "same"
    arguments = [
        str(here / "frames"),
        "--backbone",
        str(here / "net"),
        "--out",
        str(out),
        "--sizes",
        "2",
        "3",
        *QUICK,
    ]
    assert cli.main(["zeroshot", "same-domain", *arguments]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == str(out)
    results = json.loads((out / "metrics.json").read_text())
    digest = load(here / "net").card.digest
    assert results["backbone"]["digest"] == digest
    assert results["domains"]["arm"]["frames"] == 3
    rows = list(csv.DictReader((out / "images.csv").read_text().splitlines()))
    assert len(rows) == 2 * (2 + 3) * 8
    for row in rows:
        dice, iou = float(row["dice"]), float(row["iou"])
        assert iou == pytest.approx(dice / (2 - dice))
    assert {path.name for path in (out / "figures").iterdir()} == {"dice.png", "iou.png", "examples.png"}
    client = MlflowClient(f"sqlite:///{here}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("vetdino/zeroshot")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.data.tags["backbone"] == digest
    assert run.data.tags["manifest"] == results["data"]
    assert run.data.params["cosegment.clusters"] == "3"
    for name in ("same-domain/dice.arm.n3.cosegment", "same-domain/iou.leg.n2.oracle"):
        assert run.data.metrics[name] == pytest.approx(results["metrics"][name])
    kept = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"figures", "metrics.json", "config.json", "images.json"} <= kept


def test_new_frames_are_segmented_and_the_folder_is_the_last_line(here, tmp_path, capsys):
    images = [str(here / "frames" / "arm"), str(here / "frames" / "leg" / "images" / "0.png")]
    arguments = [*images, "--backbone", str(here / "net"), "--out", str(tmp_path / "out"), *QUICK]
    assert cli.main(["zeroshot", "segment", *arguments]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out" / "masks").iterdir())
    assert names == ["1.png", "2.png", "arm_0.png", "leg_0.png"]
    assert names == sorted(path.name for path in (tmp_path / "out" / "overlays").iterdir())


def test_bad_input_is_one_line_and_leaves_nothing(here, tmp_path, capsys):
    frames, net, out = str(here / "frames"), str(here / "net"), str(tmp_path / "out")
    places = ("--backbone", net, "--out", out, *QUICK)
    assert "no such folder" in refused(capsys, "assess", str(tmp_path / "nowhere"), *places)
    assert "stride" in refused(capsys, "scatter", frames, "--stride", "3", *places)
    assert "blocks 1 to 2" in refused(capsys, "noise", frames, "--block", "9", *places)
    assert "no such file" in refused(capsys, "segment", str(tmp_path / "no.png"), *places)
    assert "usable domains" in refused(capsys, "cross-domain", frames, "--images", "9", *places)
    many = ("--backbone", net, "--out", out, "--short", "32", "--cosegment.clusters", "9999")
    assert "9999" in refused(capsys, "same-domain", frames, *many)
    assert not Path(out).exists()


def test_a_folder_of_somebody_else_is_refused_before_the_work(here, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    line = refused(
        capsys, "assess", str(here / "frames"), "--backbone", str(here / "net"), "--out", str(tmp_path)
    )
    assert "thesis.txt" in line
