"""Generated radiographs on disk: the same bytes for the same seed, files that read back exactly, truth that fits."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from vetdino.platform.core.errors import ConfigError, DataError
from vetdino.platform.dicom.pixels import read_view
from vetdino.platform.phantom.config import FINDINGS, PhantomConfig
from vetdino.platform.phantom.dog.archive import labels_table, write_radiographs
from vetdino.platform.phantom.dog.dicom import SYNTAXES
from vetdino.platform.phantom.dog.studies import dicom_uid, generate_study

ROOT = Path(__file__).resolve().parents[4]

SMALL = PhantomConfig(studies=6, side=64, seed=3, workers=1)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_radiographs(tmp_path_factory.mktemp("phantom") / "out", SMALL)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_findings_are_as_frequent_as_configured():
    config = PhantomConfig(studies=1500, cardiomegaly=0.5, lung_mass=0.0)
    rows = list(csv.DictReader(labels_table(config).splitlines()))
    shares = {finding: np.mean([int(row[finding]) for row in rows if row[finding]]) for finding in FINDINGS}
    assert shares["lung_mass"] == 0
    for finding, share in shares.items():
        assert share == pytest.approx(getattr(config, finding), abs=0.05), finding


@pytest.mark.slow
def test_the_folder_holds_dicom_labels_truth_and_the_config(written):
    files = contents(written)
    card = json.loads(files["phantom.json"])
    assert card["config"]["side"] == 64
    rows = list(csv.DictReader(files["labels.csv"].decode().splitlines()))
    assert list(rows[0]) == ["study", "patient", *FINDINGS]
    assert len(rows) == SMALL.studies
    for index, row in enumerate(rows):
        study = generate_study(SMALL, index, truth=False)
        assert (row["study"], row["patient"]) == (study.plan.uid, study.plan.patient)
        assert {finding: int(row[finding]) for finding in FINDINGS if row[finding]} == study.plan.labels
        images = list((written / "dicom" / row["patient"] / row["study"]).glob("*.dcm"))
        assert len(images) == len(study.views)
    images = [name for name in files if name.endswith(".dcm")]
    assert len(images) == len([name for name in files if name.startswith("truth/")])


@pytest.mark.slow
def test_every_file_reads_back_to_the_pixels_that_were_made(written):
    syntaxes, photometric = set(), set()
    for index in range(SMALL.studies):
        study = generate_study(SMALL, index, truth=False)
        for number, view in enumerate(study.views):
            path = written / "dicom" / study.plan.patient / study.plan.uid / f"IMAGE{number}.dcm"
            dataset = pydicom.dcmread(path)
            pixels = dataset.pixel_array
            if dataset.PhotometricInterpretation == "MONOCHROME1":
                pixels = 4095 - pixels
            assert (pixels == view.pixels).all()
            assert dataset.BitsStored == 12
            syntaxes.add(str(dataset.file_meta.TransferSyntaxUID))
            photometric.add(dataset.PhotometricInterpretation)
    assert syntaxes == set(SYNTAXES)
    assert photometric == {"MONOCHROME1", "MONOCHROME2"}


@pytest.mark.slow
def test_ingest_reads_the_projection_and_an_image_of_the_right_polarity(written):
    for index in range(SMALL.studies):
        study = generate_study(SMALL, index, truth=False)
        for number, view in enumerate(study.views):
            ingested = read_view(
                written / "dicom" / study.plan.patient / study.plan.uid / f"IMAGE{number}.dcm"
            )
            assert ingested.projection == view.projection
            assert np.corrcoef(ingested.pixels.ravel(), view.pixels.ravel())[0, 1] > 0.95


def test_the_truth_names_its_file_and_fits_its_picture(written):
    study = generate_study(SMALL, 0)
    for number, view in enumerate(study.views):
        with np.load(written / "truth" / f"{study.plan.uid}_{number}.npz") as truth:
            height, width = truth["shape"]
            count = len(truth["organs"])
            masks = np.unpackbits(truth["masks"], count=count * height * width).reshape(count, height, width)
            points = truth["points"]
            assert str(truth["instance"]) == dicom_uid(SMALL, "image", 0, number)
        assert points.dtype == np.float16
        assert points.shape == (height, width, 3) == (*view.pixels.shape, 3)
        liver = masks[sorted(view.truth.masks).index("liver")].astype(bool)
        assert (liver == view.truth.masks["liver"]).all()
        np.testing.assert_allclose(points, view.rays.points_at(view.truth.depth), atol=0.05)


@pytest.mark.slow
def test_two_workers_write_the_bytes_of_one(written, tmp_path):
    both = write_radiographs(tmp_path / "out", replace(SMALL, workers=2))
    assert contents(both) == contents(written)


@pytest.mark.slow
def test_an_interrupted_run_continues_and_keeps_finished_studies(written, tmp_path):
    out = write_radiographs(tmp_path / "out", replace(SMALL, studies=2))
    kept = next((out / "dicom").rglob("*.dcm"))
    before = kept.stat().st_mtime_ns
    (out / "labels.csv").unlink()
    assert contents(write_radiographs(out, SMALL)) == contents(written)
    assert kept.stat().st_mtime_ns == before


def test_a_folder_of_other_settings_is_refused(tmp_path):
    out = write_radiographs(tmp_path / "out", replace(SMALL, studies=1))
    with pytest.raises(ConfigError, match="other settings"):
        write_radiographs(out, replace(SMALL, studies=1, seed=4))
    write_radiographs(out, replace(SMALL, studies=2))
    with pytest.raises(ConfigError, match="holds 2 studies"):
        write_radiographs(out, replace(SMALL, studies=1))


def test_a_full_disk_is_a_data_error_and_leaves_no_half_written_study(tmp_path, monkeypatch):
    def full(*_args, **_more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(DataError, match="the disk is full"):
        write_radiographs(tmp_path / "out", replace(SMALL, studies=1))
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["phantom.json"]
    monkeypatch.undo()
    write_radiographs(tmp_path / "out", replace(SMALL, studies=1))


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    arguments = f"-m vetdino phantom {tmp_path}/out --studies 400 --side 64 --workers 2".split()
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True
    )

    def workers() -> list[str]:
        listing = subprocess.run(["ps", "-ww", "-eo", "sid,stat,args"], capture_output=True, text=True).stdout
        rows = [row.split(None, 2) for row in listing.splitlines()[1:]]
        in_session = [(state, args) for sid, state, args in rows if int(sid) == process.pid]
        return [args for state, args in in_session if "spawn_main" in args and state[0] != "Z"]

    wait_until(lambda: any(tmp_path.rglob("IMAGE0.dcm")))
    assert len(workers()) == 2
    process.kill()
    process.wait()
    wait_until(lambda: not workers())


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
