"""Generated studies: the same bytes for the same seed, DICOM that reads back exactly, truth that fits."""

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
from vetdino.platform.ingest.dicom import view_of
from vetdino.platform.phantom.dog.anatomy import FINDINGS, SEEN
from vetdino.platform.phantom.dog.archive import (
    SYNTAXES,
    PhantomConfig,
    dicom_of,
    phantom,
    study_images,
    uid_of,
)

ROOT = Path(__file__).resolve().parents[4]

SMALL = PhantomConfig(studies=6, side=64, seed=3, workers=1)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return phantom(tmp_path_factory.mktemp("phantom") / "out", SMALL)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_seed_gives_the_same_study_and_another_seed_another():
    one, two, other = (study_images(PhantomConfig(side=64, seed=s), 1) for s in (0, 0, 1))
    assert [v.pixels.tobytes() for v in one.views] == [v.pixels.tobytes() for v in two.views]
    assert (one.uid, one.patient, one.labels) == (two.uid, two.patient, two.labels)
    assert one.uid != other.uid
    assert one.views[0].pixels.tobytes() != other.views[0].pixels.tobytes()


def test_truth_does_not_change_the_picture():
    config = PhantomConfig(side=64)
    with_truth, without = (study_images(config, 2, truth=truth) for truth in (True, False))
    assert without.views[0].truth is None
    for one, two in zip(with_truth.views, without.views, strict=True):
        assert (one.pixels == two.pixels).all()


def test_a_study_has_two_to_five_views_of_two_directions_at_the_side_asked_for():
    for index in range(6):
        study = study_images(PhantomConfig(side=64), index, truth=False)
        positions = {view.projection for view in study.views}
        assert 2 <= len(study.views) <= 5
        assert positions & {"VD", "DV"}
        assert positions & {"LLAT", "RLAT"}
        assert all(max(view.pixels.shape) == 64 for view in study.views)


def test_some_patients_come_back_and_stay_the_animal_they_were():
    studies = [study_images(PhantomConfig(side=32), index, truth=False) for index in range(16)]
    by_patient: dict[str, list] = {}
    for study in studies:
        by_patient.setdefault(study.patient, []).append(study)
    assert sorted(map(len, by_patient.values())) == [1, 1, 1, 1, 1, 1, 2, 2, 3, 3]
    for visits in by_patient.values():
        assert len({visit.animal for visit in visits}) == 1
        assert len({visit.uid for visit in visits}) == len(visits)


def test_findings_appear_as_often_as_asked():
    from vetdino.platform.phantom.dog.archive import _labels

    config = PhantomConfig(studies=1500, cardiomegaly=0.5, lung_mass=0.0)
    rows = list(csv.DictReader(_labels(config).splitlines()))
    shares = {finding: np.mean([int(row[finding]) for row in rows if row[finding]]) for finding in FINDINGS}
    assert shares["lung_mass"] == 0
    for finding, share in shares.items():
        assert share == pytest.approx(getattr(config, finding), abs=0.05), finding


def test_a_study_is_labelled_with_what_its_field_of_view_can_show():
    config = PhantomConfig(side=32)
    studies = [study_images(config, index, truth=False) for index in range(24)]
    assert {study.region for study in studies} == set(SEEN)
    for study in studies:
        assert tuple(study.labels) == SEEN[study.region]
    assert {finding for region in ("chest", "belly") for finding in SEEN[region]} < set(SEEN["whole"])


def test_the_chest_fills_more_of_its_own_picture_than_of_the_whole_animals():
    config = PhantomConfig(side=96)
    shares: dict[str, list[float]] = {region: [] for region in SEEN}
    for index in range(24):
        study = study_images(config, index)
        hearts = (view.truth.masks.get("heart", np.zeros(1)) for view in study.views)
        shares[study.region] += [float(heart.mean()) for heart in hearts]
    means = {region: np.mean(share) for region, share in shares.items()}
    assert means["chest"] > 1.5 * means["whole"]
    assert means["belly"] < 0.5 * means["chest"]


def test_the_folder_holds_dicom_labels_truth_and_the_config(written):
    files = contents(written)
    card = json.loads(files["phantom.json"])
    assert card["config"]["side"] == 64
    rows = list(csv.DictReader(files["labels.csv"].decode().splitlines()))
    assert list(rows[0]) == ["study", "patient", *FINDINGS]
    assert len(rows) == SMALL.studies
    for index, row in enumerate(rows):
        study = study_images(SMALL, index, truth=False)
        assert (row["study"], row["patient"]) == (study.uid, study.patient)
        assert {finding: int(row[finding]) for finding in FINDINGS if row[finding]} == study.labels
        assert len(list((written / "dicom" / row["patient"] / row["study"]).glob("*.dcm"))) == len(
            study.views
        )
    assert len([name for name in files if name.endswith(".dcm")]) == len(
        [name for name in files if name.startswith("truth/")]
    )


def test_every_file_reads_back_to_the_pixels_that_were_made(written):
    syntaxes, photometric = set(), set()
    for index in range(SMALL.studies):
        study = study_images(SMALL, index, truth=False)
        for number, view in enumerate(study.views):
            path = written / "dicom" / study.patient / study.uid / f"IMAGE{number}.dcm"
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


@pytest.mark.parametrize("number", range(4))
def test_each_transfer_syntax_is_lossless(number, tmp_path):
    study = study_images(replace(SMALL, side=96), 4, truth=False)
    study = replace(study, views=(study.views * 4)[:4])
    dataset = dicom_of(SMALL, study, number, np.random.default_rng(0))
    dataset.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    read = pydicom.dcmread(tmp_path / "one.dcm")
    assert read.file_meta.TransferSyntaxUID == SYNTAXES[(study.index + number) % 4]
    stored = read.pixel_array if read.PhotometricInterpretation == "MONOCHROME2" else 4095 - read.pixel_array
    assert (stored == study.views[number].pixels).all()


def test_ingest_finds_the_projection_and_the_picture_the_right_way_round(written):
    for index in range(SMALL.studies):
        study = study_images(SMALL, index, truth=False)
        for number, view in enumerate(study.views):
            found = view_of(written / "dicom" / study.patient / study.uid / f"IMAGE{number}.dcm")
            assert found.projection == view.projection
            assert np.corrcoef(found.pixels.ravel(), view.pixels.ravel())[0, 1] > 0.95


def test_the_truth_names_its_file_and_fits_its_picture(written):
    study = study_images(SMALL, 0)
    for number, view in enumerate(study.views):
        with np.load(written / "truth" / f"{study.uid}_{number}.npz") as truth:
            height, width = truth["shape"]
            count = len(truth["organs"])
            masks = np.unpackbits(truth["masks"], count=count * height * width).reshape(count, height, width)
            points = truth["points"]
            assert str(truth["instance"]) == uid_of(SMALL, "image", 0, number)
        assert points.dtype == np.float16
        assert points.shape == (height, width, 3) == (*view.pixels.shape, 3)
        liver = masks[sorted(view.truth.masks).index("liver")].astype(bool)
        assert (liver == view.truth.masks["liver"]).all()
        np.testing.assert_allclose(points, view.rays.animal(view.truth.depth), atol=0.05)


def test_two_workers_write_the_bytes_of_one(written, tmp_path):
    both = phantom(tmp_path / "out", replace(SMALL, workers=2))
    assert contents(both) == contents(written)


def test_a_run_that_was_cut_short_goes_on_and_keeps_what_is_finished(written, tmp_path):
    out = phantom(tmp_path / "out", replace(SMALL, studies=2))
    kept = next((out / "dicom").rglob("*.dcm"))
    before = kept.stat().st_mtime_ns
    (out / "labels.csv").unlink()
    assert contents(phantom(out, SMALL)) == contents(written)
    assert kept.stat().st_mtime_ns == before


def test_a_folder_of_other_settings_is_refused(tmp_path):
    out = phantom(tmp_path / "out", replace(SMALL, studies=1))
    with pytest.raises(ConfigError, match="other settings"):
        phantom(out, replace(SMALL, studies=1, seed=4))
    phantom(out, replace(SMALL, studies=2))
    with pytest.raises(ConfigError, match="holds 2 studies"):
        phantom(out, replace(SMALL, studies=1))


@pytest.mark.parametrize(
    ("wrong", "words"), [({"studies": 0}, "studies"), ({"side": 8}, "side"), ({"lung_mass": 2}, "share")]
)
def test_settings_that_cannot_be_are_refused_before_anything_is_written(wrong, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        phantom(tmp_path / "out", replace(SMALL, **wrong))
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_clear_line_and_leaves_no_half_study(tmp_path, monkeypatch):
    def full(*_args, **_more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(DataError, match="No space left on device"):
        phantom(tmp_path / "out", replace(SMALL, studies=1))
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["phantom.json"]
    monkeypatch.undo()
    phantom(tmp_path / "out", replace(SMALL, studies=1))


def test_workers_do_not_outlive_a_parent_that_was_killed(tmp_path):
    words = [
        "-m",
        "vetdino",
        "phantom",
        str(tmp_path / "out"),
        "--studies",
        "400",
        "--side",
        "64",
        "--workers",
        "2",
    ]
    process = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True
    )

    def workers() -> list[str]:
        rows = subprocess.run(
            ["ps", "-ww", "-eo", "sid,stat,args"], capture_output=True, text=True
        ).stdout.splitlines()
        told = [row.split(None, 2) for row in rows[1:]]
        return [
            args
            for sid, state, args in told
            if int(sid) == process.pid and "spawn_main" in args and state[0] != "Z"
        ]

    until(lambda: any(tmp_path.rglob("IMAGE0.dcm")))
    assert len(workers()) == 2
    process.kill()
    process.wait()
    until(lambda: not workers())


def until(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)
