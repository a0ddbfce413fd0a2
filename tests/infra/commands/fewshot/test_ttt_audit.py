"""`vetdino fewshot cca-audit`, `ttt-audit`, and `segment` with training on each slice: what they leave and refuse."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from vetdino.downstream.fewshot.audits.config import TttConfig
from vetdino.downstream.fewshot.audits.targets import audit_targets
from vetdino.downstream.fewshot.learn.adaptation import adapt_and_segment, reset_after
from vetdino.downstream.fewshot.learn.trained import load_trained_encoders
from vetdino.downstream.volumes.volume import load_volumes
from vetdino.infra import cli
from vetdino.platform.core.config import from_json
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.loading import load
from vetdino.platform.models.saving import save_backbone

pytestmark = pytest.mark.slow

QUICK = ("--slices.grid", "8", "--resamples", "10", "--folds", "2")
TRAINED = (
    "--adapt.steps",
    "2",
    "--adapt.rate",
    "0.05",
    "--prototypes.training-window",
    "2",
)


def write_scan(folder: Path, number: int) -> None:
    """A grey body with two bright organs, one of them in two parts, and their labels; each scan a bit moved."""
    random = np.random.default_rng(number)
    z, y, x = np.mgrid[:5, :32, :32]
    up, left = random.uniform(-1, 1, 2)
    labels = np.zeros(z.shape, np.uint8)
    labels[(np.hypot(y - 11 - up, x - 11 - left) < 5) & (z > 0)] = 1
    for side, radius in ((-6, 3.5), (6, 2.5)):
        labels[(np.hypot(y - 23 - up, x - 16 - side - left) < radius) & (z > 0) & (z < 4)] = 2
    body = np.hypot(y - 16, x - 16) < 15
    image = body * (60 + 60.0 * (labels == 1) + 120 * (labels == 2)) + random.normal(0, 4, z.shape)
    affine = np.diag([-1.5, -1.5, 5.0, 1.0])
    for kind, array in (("image", np.clip(image, 0, 255).astype(np.float32)), ("label", labels)):
        nibabel.save(
            nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), folder / f"{kind}_{number}.nii.gz"
        )


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with raw scans `raw`, prepared ones `volumes` and a backbone `net`."""
    root = tmp_path_factory.mktemp("audits")
    (root / "raw").mkdir()
    for number in range(1, 5):
        write_scan(root / "raw", number)
    config = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=48, heads=2, depth=2)
    save_backbone(root / "net", random_backbone(config, seed=3))
    named = ("--classes", "1=liver,2=kidneys")
    prepared = ("--side", "32", "--mri-spacing", "0", "0", "0", "--modality", "mri")
    assert cli.main(["fewshot", "prepare", str(root / "raw"), str(root / "volumes"), *named, *prepared]) == 0
    return root


def audited(here: Path, capsys, command: str, backbone: str, *more: str) -> tuple[Path, dict, list[dict]]:
    """(folder, metrics.json, summary.csv) that a command left."""
    out = here / "runs" / command
    arguments = ["fewshot", command, str(here / "volumes"), "--backbone", backbone, "--out", str(out)]
    assert cli.main([*arguments, *QUICK, *more]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    told = json.loads((out / "metrics.json").read_text())
    return out, told, list(csv.DictReader((out / "summary.csv").read_text().splitlines()))


def test_an_audit_of_components_leaves_tables_figures_and_a_run(here, capsys):
    from mlflow import MlflowClient

    out, told, summary = audited(here, capsys, "cca-audit", "pixels")
    [ceiling] = [
        line for line in summary if line["row"] == "truth, components 1" and line["organ"] == "kidneys"
    ]
    assert 0.5 < float(ceiling["dice"]) < 0.9
    assert float(ceiling["worse"]) == 1
    assert told["experiment"] == "cca-audit"
    assert told["metrics"]["dice/truth, components 1.kidneys"] == pytest.approx(float(ceiling["dice"]))
    assert {"dice.png", "harm.png", "parts.png"} <= {path.name for path in (out / "figures").iterdir()}
    rows = list(csv.DictReader((out / "slices.csv").read_text().splitlines()))
    assert {row["row"] for row in rows} == {row["row"] for row in summary}
    client = MlflowClient(f"sqlite:///{here}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("vetdino/fewshot")
    [run] = client.search_runs([experiment.experiment_id], "tags.experiment = 'cca-audit'")
    assert run.data.tags["manifest"] == told["data"]


def test_an_audit_of_test_time_training_leaves_what_each_way_did(here, capsys):
    more = (*TRAINED, "--also", "1", "--noise", "0.5", "--per-organ", "1", "--scans", "2")
    out, told, summary = audited(here, capsys, "ttt-audit", str(here / "net"), *more)
    rows = {line["row"] for line in summary}
    assert {"before", "1 step", "2 steps", "label truth, 50% wrong", "no reset", "backwards"} < rows
    assert {"copy", "pixels", "oracle"} < rows
    assert told["metrics"]["order/2 steps"] == 0
    assert told["metrics"]["seconds/2 steps"] > 0
    costs = list(csv.DictReader((out / "training.csv").read_text().splitlines()))
    assert len([cost for cost in costs if cost["row"] == "no reset"]) == 2 * 2
    assert {"steps.png", "drift.png"} <= {path.name for path in (out / "figures").iterdir()}


def test_trained_encoders_are_audited_each_in_its_own_fold(here, capsys):
    net, trained = str(here / "net"), here / "trained"
    few = ("--setting", "I", "--steps", "3", "--lr", "0.5", "--folds", "2", "--slices.grid", "8")
    few = (*few, "--prototypes.training-window", "2", "--episodes.min-size", "30", "--device", "cpu")
    given = (str(here / "volumes"), "--backbone", net, "--out", str(trained))
    assert cli.main(["fewshot", "train", *given, *few]) == 0
    more = (*TRAINED, "--also", "1", "--noise", "0.5", "--per-organ", "1", "--device", "cpu")
    out, _, _ = audited(here, capsys, "ttt-audit", net, *more, "--trained", str(trained))
    volumes, config = load_volumes(here / "volumes"), from_json(TttConfig, (out / "config.json").read_text())
    own = load_trained_encoders(trained, load(net), config.slices)
    costs = csv.DictReader((out / "training.csv").read_text().splitlines())
    told = {
        (one["scan"], one["organ"], int(one["slice"])): float(one["first_loss"])
        for one in costs
        if one["row"] == "2 steps"
    }
    asked = [one for scan in audit_targets(volumes, config, {}) for one in scan]
    assert {one.fold.number for one in asked} == {0, 1}
    assert len(told) == sum(len(one.parts) for one in asked)
    for target in asked:
        first = {}
        for fold in (0, 1):
            encoder = own[fold, target.support.organ]
            [(z, part)] = target.parts.items()
            with reset_after(encoder):
                ways = (target.support, part, target.query, z, config.adapt, config.prototypes)
                first[fold] = adapt_and_segment(encoder, *ways, marks=(2,)).losses[0]
        assert told[target.query.name, target.support.name, z] == first[target.fold.number]
        assert first[0] != first[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_there_is_not_is_refused_before_the_work(here, capsys):
    out = here / "never"
    given = (str(here / "volumes"), "--backbone", str(here / "net"), "--out", str(out), "--device", "cuda")
    for command in ("ttt-audit", "evaluate"):
        assert cli.main(["fewshot", command, *given, *QUICK]) == 1
        assert "needs a GPU" in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()


def test_pixels_have_nothing_to_train(here, capsys):
    assert cli.main(["fewshot", "ttt-audit", str(here / "volumes"), "--backbone", "pixels"]) == 1
    assert "`pixels` have none" in capsys.readouterr().err.splitlines()[-1]


def segmented(here: Path, out: Path, *more: str) -> int:
    raw = here / "raw"
    places = ("--support", str(raw / "image_1.nii.gz"), "--mask", str(raw / "label_1.nii.gz"))
    named = ("--prepare.side", "32", "--prepare.mri-spacing", "0", "0", "0", "--prepare.modality", "mri")
    return cli.main(
        ["fewshot", "segment", str(raw / "image_2.nii.gz"), *places, "--out", str(out), *named, *more]
    )


def test_a_scan_is_segmented_with_training_on_each_slice_the_same_every_time(here, tmp_path, capsys):
    masks = []
    for name in ("one", "two"):
        out = tmp_path / name
        more = ("--backbone", str(here / "net"), "--slices.grid", "8", *TRAINED)
        assert segmented(here, out, *more) == 0
        masks.append(np.asanyarray(nibabel.load(out / "masks" / "image_2.nii.gz").dataobj))
        assert json.loads((out / "config.json").read_text())["adapt"]["steps"] == 2
    np.testing.assert_array_equal(*masks)
    assert segmented(here, tmp_path / "three", "--backbone", "pixels", *TRAINED) == 1
    assert "pixels have none" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "three").exists()
