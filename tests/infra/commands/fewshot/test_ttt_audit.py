"""`vetdino fewshot cca-audit`, `ttt-audit`, and `segment` with training on each slice: what they leave and refuse."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from tests.infra.commands.small_scans import prepared_folder, save_scan
from vetdino.downstream.fewshot.audits.config import TttConfig
from vetdino.downstream.fewshot.audits.targets import audit_targets
from vetdino.downstream.fewshot.learn.adaptation import adapt_and_segment, reset_after
from vetdino.downstream.fewshot.learn.trained import load_trained_encoders
from vetdino.downstream.volumes.volume import load_volumes
from vetdino.infra import cli
from vetdino.platform.core.config import from_json
from vetdino.platform.models.loading import load

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
    save_scan(folder, number, image, labels)


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with raw scans `raw`, prepared ones `volumes` and a backbone `net`."""
    root = tmp_path_factory.mktemp("audits")
    return prepared_folder(root, write_scan, scans=4, side=32, patch=8)


def audited(here: Path, capsys, command: str, backbone: str, *more: str) -> tuple[Path, dict, list[dict]]:
    """(folder, metrics.json, summary.csv) that a command left."""
    out = here / "runs" / command
    arguments = ["fewshot", command, str(here / "volumes"), "--backbone", backbone, "--out", str(out)]
    assert cli.main([*arguments, *QUICK, *more]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    results = json.loads((out / "metrics.json").read_text())
    return out, results, list(csv.DictReader((out / "summary.csv").read_text().splitlines()))


def test_an_audit_of_components_leaves_tables_figures_and_a_run(here, capsys):
    from mlflow import MlflowClient

    out, results, summary = audited(here, capsys, "cca-audit", "pixels")
    [ceiling] = [
        line for line in summary if line["row"] == "truth, components 1" and line["organ"] == "kidneys"
    ]
    assert 0.5 < float(ceiling["dice"]) < 0.9
    assert float(ceiling["worse"]) == 1
    assert results["experiment"] == "cca-audit"
    assert results["metrics"]["dice/truth, components 1.kidneys"] == pytest.approx(float(ceiling["dice"]))
    assert {"dice.png", "harm.png", "parts.png"} <= {path.name for path in (out / "figures").iterdir()}
    rows = list(csv.DictReader((out / "slices.csv").read_text().splitlines()))
    assert {row["row"] for row in rows} == {row["row"] for row in summary}
    client = MlflowClient(f"sqlite:///{here}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("vetdino/fewshot")
    [run] = client.search_runs([experiment.experiment_id], "tags.experiment = 'cca-audit'")
    assert run.data.tags["manifest"] == results["data"]


def test_an_audit_of_test_time_training_leaves_what_each_way_did(here, capsys):
    more = (*TRAINED, "--also", "1", "--noise", "0.5", "--per-organ", "1", "--scans", "2")
    out, results, summary = audited(here, capsys, "ttt-audit", str(here / "net"), *more)
    rows = {line["row"] for line in summary}
    assert {"before", "1 step", "2 steps", "label truth, 50% wrong", "no reset", "backwards"} < rows
    assert {"copy", "pixels", "oracle"} < rows
    assert results["metrics"]["order/2 steps"] == 0
    assert results["metrics"]["seconds/2 steps"] > 0
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
    first_losses = {
        (one["scan"], one["organ"], int(one["slice"])): float(one["first_loss"])
        for one in costs
        if one["row"] == "2 steps"
    }
    targets = [one for scan in audit_targets(volumes, config, {}) for one in scan]
    assert {one.fold.number for one in targets} == {0, 1}
    assert len(first_losses) == sum(len(one.parts) for one in targets)
    for target in targets:
        first = {}
        for fold in (0, 1):
            encoder = own[fold, target.support.organ]
            [(z, part)] = target.parts.items()
            with reset_after(encoder):
                ways = (target.support, part, target.query, z, config.adapt, config.prototypes)
                first[fold] = adapt_and_segment(encoder, *ways, marks=(2,)).losses[0]
        assert first_losses[target.query.name, target.support.name, z] == first[target.fold.number]
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
