"""`vetdino fewshot`: what it says, what it leaves, and how it refuses."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.infra.commands.small_scans import PREPARE, prepared_folder, save_scan
from vetdino.downstream.fewshot.finished import FinishedQueries
from vetdino.infra import cli
from vetdino.platform.models.loading import load

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]

QUICK = ("--slices.grid", "12", "--resamples", "20", "--folds", "3")


def write_scan(folder: Path, number: int) -> None:
    """A grey body with two bright organs, one of them in two parts, and their labels; each scan a bit moved."""
    random = np.random.default_rng(number)
    z, y, x = np.mgrid[:9, :48, :48]
    up, left = random.uniform(-2, 2, 2)
    labels = np.zeros(z.shape, np.uint8)
    labels[(np.hypot(y - 18 - up, x - 16 - left) < 7) & (z > 1) & (z < 8)] = 1
    for side in (-9, 9):
        labels[(np.hypot(y - 33 - up, x - 24 - side - left) < 4) & (z > 2) & (z < 7)] = 2
    body = np.hypot(y - 24, x - 24) < 22
    image = body * (60 + 60.0 * (labels == 1) + 120 * (labels == 2)) + random.normal(0, 4, z.shape)
    save_scan(folder, number, image, labels)


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with raw scans `raw`, prepared ones `volumes` and a backbone `net`."""
    return prepared_folder(tmp_path_factory.mktemp("fewshot"), write_scan, scans=6, side=48, patch=4)


def refused(capsys, *arguments: str) -> str:
    """The one line of a command that ends with exit code 1."""
    capsys.readouterr()
    assert cli.main(("fewshot", *arguments)) == 1
    said = capsys.readouterr()
    assert said.out == ""
    return said.err.splitlines()[-1]


def test_an_evaluation_leaves_files_and_one_run_in_mlflow(here, capsys):
    from mlflow import MlflowClient

    out = here / "runs" / "one"
    places = (str(here / "volumes"), "--backbone", str(here / "net"), "--out", str(out))
    more = ("--beside", "levayz", "--components-beside", "1", "all")
    assert cli.main(["fewshot", "evaluate", *places, *QUICK, *more]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    results = json.loads((out / "metrics.json").read_text())
    digest = load(here / "net").card.digest
    assert results["backbone"]["digest"] == digest
    assert results["organs"] == {"1": "liver", "2": "kidneys"}
    scans = list(csv.DictReader((out / "scans.csv").read_text().splitlines()))
    assert len(scans) == 6 * 2 * (2 * 3 + 1 + 1 + 1 + 2)
    summary = list(csv.DictReader((out / "summary.csv").read_text().splitlines()))
    main = [float(one["dice"]) for one in scans if one["row"] == "encoder" and one["organ"] == "liver"]
    [line] = [one for one in summary if one["row"] == "encoder" and one["organ"] == "liver"]
    assert float(line["dice"]) == pytest.approx(np.mean(main))
    assert float(line["delta"]) == 0
    assert {path.name for path in (out / "figures").iterdir()} == {
        "dice.png",
        "volume_dice.png",
        "examples.png",
    }
    client = MlflowClient(f"sqlite:///{here}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("vetdino/fewshot")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.data.tags["backbone"] == digest
    assert run.data.tags["manifest"] == results["data"]
    assert run.data.params["prototypes.compat"] == "ours"
    assert run.data.metrics["dice/encoder.liver"] == pytest.approx(results["metrics"]["dice/encoder.liver"])


def left(out: Path) -> tuple[dict, list[dict[str, str]]]:
    """metrics.json and the lines of summary.csv."""
    results = json.loads((out / "metrics.json").read_text())
    return results, list(csv.DictReader((out / "summary.csv").read_text().splitlines()))


def test_encoders_stand_side_by_side_and_are_held_against_the_first(here, capsys):
    out = here / "runs" / "beside"
    places = (str(here / "volumes"), "--backbones", str(here / "net"), "pixels", "--out", str(out))
    assert cli.main(["fewshot", "compare", *places, *QUICK]) == 0
    results, lines = left(out)
    assert list(dict.fromkeys(line["row"] for line in lines)) == ["net", "pixels", "random", "copy", "oracle"]
    assert {line["row"] for line in lines if line["floor"] == "True"} == {"random", "copy", "oracle"}
    assert results["backbones"] == {
        "net": {"digest": load(here / "net").card.digest, "label": "random weights, seed 3"}
    }
    [line] = [one for one in lines if (one["row"], one["organ"]) == ("pixels", "mean")]
    assert line["against"] == "net"
    assert 0 < float(line["p"]) <= 1
    means = {one["row"]: float(one["dice"]) for one in lines if one["organ"] == "mean"}
    assert float(line["delta"]) == pytest.approx(means["pixels"] - means["net"])
    assert float(line["delta_low"]) <= float(line["delta"]) <= float(line["delta_high"])
    assert means["pixels"] > means["copy"]
    assert "less net" in capsys.readouterr().out


def test_more_shots_are_held_against_one_on_the_same_queries(here, capsys):
    out = here / "runs" / "shots"
    places = (str(here / "volumes"), "--backbone", "pixels", "--shots", "1", "2", "--out", str(out))
    assert cli.main(["fewshot", "kshot", *places, *QUICK]) == 0
    _, lines = left(out)
    against = {line["row"]: line["against"] for line in lines}
    for compat in ("", ", alpnet", ", levayz"):
        assert against[f"pixels{compat}, 2 shots"] == f"pixels{compat}, 1 shot"
    assert against["copy, 2 shots"] == "copy, 1 shot"
    assert {path.name for path in (out / "figures").iterdir()} == {
        "shots.png",
        "volume_shots.png",
        "examples.png",
    }


def test_one_folder_teaches_another_what_both_name_alike(here, capsys):
    manifest = json.loads((here / "volumes" / "volumes.json").read_text())
    other = here / "others"
    shutil.copytree(here / "volumes", other, dirs_exist_ok=True)
    manifest["classes"] = {"1": "Liver", "2": "stones"}
    (other / "volumes.json").write_text(json.dumps(manifest))
    out = here / "runs" / "cross"
    places = (str(here / "volumes"), str(other), "--backbone", "pixels", "--out", str(out))
    assert cli.main(["fewshot", "xdomain", *places, *QUICK]) == 0
    results, lines = left(out)
    assert results["organs"] == {"1": "liver"}
    assert results["left_out"]["others, kidneys"] == results["left_out"]["volumes, stones"]
    cells = {line["row"]: line for line in lines if line["organ"] == "liver" and line["source"] == "pixels"}
    assert set(cells) == {f"{one} -> {two}" for one in ("volumes", "others") for two in ("volumes", "others")}
    assert cells["volumes -> others"]["against"] == "others -> others"
    assert len({line["dice"] for line in cells.values()}) == 1  # the same scans under another name
    assert (out / "figures" / "matrix.png").is_file()
    assert (out / "figures" / "examples, volumes to others.png").is_file()
    alone = ("--backbone", "pixels", "--out", str(here / "never"), *QUICK)
    assert "two or more" in refused(capsys, "xdomain", str(other), *alone)


def test_trained_encoders_answer_for_their_folds_and_slices_can_be_learnt_first(here, capsys):
    trained, out = here / "trained", here / "runs" / "trained"
    given = (str(here / "volumes"), "--backbone", str(here / "net"))
    few = (
        "--setting",
        "I",
        "--steps",
        "2",
        "--folds",
        "3",
        "--slices.grid",
        "12",
        "--episodes.min-size",
        "30",
    )
    assert cli.main(["fewshot", "train", *given, "--out", str(trained), *few]) == 0
    more = ("--trained", str(trained), "--floors", "copy", "--organs", "1", "--adapt.steps", "1")
    assert cli.main(["fewshot", "evaluate", *given, *more, "--out", str(out), *QUICK]) == 0
    results, lines = left(out)
    rows = list(dict.fromkeys(line["row"] for line in lines))
    assert rows == ["trained", "encoder", "trained, adapted", "encoder, adapted", "copy"]
    assert results["asked"] == {"trained": "trained"}
    assert {line["scans"] for line in lines} == {"6"}
    learnt = list(csv.DictReader((out / "adaptation.csv").read_text().splitlines()))
    assert {line["source"] for line in learnt} == {"trained, adapted", "encoder, adapted"}
    places = [(line["source"], line["scan"], line["organ"], line["slice"], line["part"]) for line in learnt]
    assert len(set(places)) == len(places)
    assert {line["scan"] for line in learnt} == {str(number) for number in range(1, 7)}
    assert {line["steps"] for line in learnt} <= {"0", "1"}
    assert all((float(line["drift"]) > 0) == (line["steps"] == "1") for line in learnt)
    assert all(float(line["seconds"]) > 0 for line in learnt)
    [table] = [path for path in (here / "runs").rglob("adaptation.json")]
    assert len(json.loads(table.read_text())["data"]) == len(learnt)
    other = (
        str(here / "volumes"),
        "--backbones",
        "pixels",
        "--trained",
        str(trained),
        "--out",
        str(here / "never"),
    )
    assert "need the backbone" in refused(capsys, "compare", *other, *QUICK)
    folds = (*given, "--trained", str(trained), "--out", str(here / "never"), "--folds", "2")
    assert "trained for 3 folds" in refused(capsys, "evaluate", *folds)


KILLED_AFTER_3 = """
import os, signal, sys
from vetdino.downstream.fewshot.finished import FinishedQueries
from vetdino.infra import cli
save, saved = FinishedQueries.save, []
def save_and_die(self, fold, results):
    save(self, fold, results)
    saved.append(fold)
    if len(saved) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
FinishedQueries.save = save_and_die
cli.main(sys.argv[1:])
"""


def test_an_evaluation_that_is_killed_continues_with_the_same_results(here, monkeypatch):
    whole, killed = here / "runs" / "whole", here / "runs" / "killed"
    given = ("fewshot", "evaluate", str(here / "volumes"), "--backbone", str(here / "net"), *QUICK)
    more = ("--organs", "1", "--floors", "copy", "oracle", "--adapt.steps", "1", "--device", "cpu")
    assert cli.main([*given, *more, "--out", str(whole)]) == 0
    command = [sys.executable, "-c", KILLED_AFTER_3, *given, *more, "--out", str(killed)]
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == -signal.SIGKILL
    [folder] = (killed / "finished_queries").iterdir()
    assert sum(path.suffix == ".npz" for path in folder.iterdir()) == 3
    assert (
        len({line["scan"] for line in csv.DictReader((folder / "scans.csv").read_text().splitlines())}) == 3
    )
    measured = []
    save = FinishedQueries.save
    monkeypatch.setattr(FinishedQueries, "save", lambda *args: measured.append(args) or save(*args))
    assert cli.main([*given, *more, "--out", str(killed)]) == 0
    assert len(measured) == 3
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}
    for name in (
        "scans.csv",
        "summary.csv",
        *(f"figures/{path.name}" for path in (whole / "figures").iterdir()),
    ):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    adaptation = [
        [
            {**line, "seconds": ""}
            for line in csv.DictReader((out / "adaptation.csv").read_text().splitlines())
        ]
        for out in (whole, killed)
    ]
    assert adaptation[0] == adaptation[1]
    metrics = [json.loads((out / "metrics.json").read_text()) for out in (whole, killed)]
    for one in metrics:
        one["metrics"] = {
            name: value for name, value in one["metrics"].items() if not name.startswith("seconds/")
        }
    assert metrics[0] == metrics[1]


def test_a_folder_that_is_not_ours_is_refused_before_the_work(here, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("all of it")
    places = ("--backbone", str(here / "missing"), "--out", str(tmp_path))
    for name in ("evaluate", "kshot", "xdomain"):
        assert "thesis.txt" in refused(capsys, name, str(here / "volumes"), *places)
    beside = ("--backbones", str(here / "missing"), "pixels", "--out", str(tmp_path))
    assert "thesis.txt" in refused(capsys, "compare", str(here / "volumes"), *beside)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_scan_is_segmented_from_one_example_on_its_own_grid(here, tmp_path, capsys):
    raw, out = here / "raw", tmp_path / "out"
    arguments = [
        str(raw / "image_2.nii.gz"),
        "--support",
        str(raw / "image_1.nii.gz"),
        "--mask",
        str(raw / "label_1.nii.gz"),
        "--backbone",
        "pixels",
        "--out",
        str(out),
        "--slices.grid",
        "24",
        *(
            word.replace("--", "--prepare.") if word.startswith("--") else word
            for word in ("--side", "48", *PREPARE)
        ),
    ]
    assert cli.main(["fewshot", "segment", *arguments]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    [mask] = (out / "masks").iterdir()
    found, truth = nibabel.load(mask), nibabel.load(raw / "label_2.nii.gz")
    np.testing.assert_array_equal(found.affine, truth.affine)
    found, truth = np.asarray(found.dataobj), np.asarray(truth.dataobj)
    for organ in (1, 2):
        both = ((found == organ) & (truth == organ)).sum()
        assert 2 * both / ((found == organ).sum() + (truth == organ).sum()) > 0.7
    results = json.loads((out / "metrics.json").read_text())
    ml = (found == 1).sum() * 1.5 * 1.5 * 5 / 1000
    assert results["millilitres"]["image_2"]["class 1"] == pytest.approx(ml, abs=0.06)
    assert len(list((out / "overlays").iterdir())) == 1


def test_bad_input_is_one_line_and_leaves_nothing(here, tmp_path, capsys):
    out = tmp_path / "out"
    places = ("--backbone", str(here / "net"), "--out", str(out), *QUICK)
    assert "no volumes.json" in refused(capsys, "evaluate", str(here / "raw"), *places)
    assert "no class 9" in refused(capsys, "evaluate", str(here / "volumes"), *places, "--organs", "9")
    many = (*places[:-1], "9")
    assert "9 folds of 6" in refused(capsys, "evaluate", str(here / "volumes"), *many)
    empty = tmp_path / "empty.nii.gz"
    scan = nibabel.load(here / "raw" / "label_1.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros(scan.shape, np.uint8), scan.affine), empty)
    new, support = (str(here / "raw" / f"image_{number}.nii.gz") for number in (2, 1))
    given = ("--support", support, "--mask", str(empty), "--backbone", "pixels", "--out", str(out))
    assert "empty.nii.gz: empty" in refused(capsys, "segment", new, *given)
    assert not out.exists()
