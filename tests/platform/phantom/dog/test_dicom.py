"""DICOM files of generated views: lossless pixels, and tags that vary as they do between clinics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pydicom
import pytest

from vetdino.platform.phantom.config import PhantomConfig
from vetdino.platform.phantom.dog.dicom import SYNTAXES, VIEW_NAMES, dicom_dataset
from vetdino.platform.phantom.dog.studies import GeneratedView, dicom_uid, generate_study, plan_study

SMALL = PhantomConfig(studies=6, side=64, seed=3, workers=1)


@pytest.mark.parametrize("number", range(4))
def test_each_transfer_syntax_is_lossless(number, tmp_path):
    study = generate_study(replace(SMALL, side=96), 4, truth=False)
    study = replace(study, views=(study.views * 4)[:4])
    dataset = dicom_dataset(SMALL, study, number, np.random.default_rng(0))
    dataset.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    read = pydicom.dcmread(tmp_path / "one.dcm")
    assert read.file_meta.TransferSyntaxUID == SYNTAXES[(study.plan.index + number) % 4]
    stored = read.pixel_array if read.PhotometricInterpretation == "MONOCHROME2" else 4095 - read.pixel_array
    assert (stored == study.views[number].pixels).all()


@pytest.fixture(scope="module")
def many() -> list[tuple[GeneratedView, pydicom.Dataset]]:
    """One small study's views, each written with 60 different draws of its tags."""
    study = generate_study(replace(SMALL, side=32), 3, truth=False)
    draws = [(number, seed) for number in range(len(study.views)) for seed in range(60)]
    return [
        (study.views[n], dicom_dataset(SMALL, study, n, np.random.default_rng(seed))) for n, seed in draws
    ]


def test_the_view_is_in_viewposition_in_a_code_or_in_words(many):
    forms = {"position": 0, "code": 0, "words": 0}
    for view, dataset in many:
        if "ViewPosition" in dataset:
            forms["position"] += 1
            assert dataset.ViewPosition in (view.projection, "LATERAL")
        elif "ViewCodeSequence" in dataset:
            forms["code"] += 1
            assert dataset.ViewCodeSequence[0].CodeValue == view.projection
        else:
            forms["words"] += 1
            assert dataset.SeriesDescription.endswith(VIEW_NAMES[view.projection])
    shares = {form: count / len(many) for form, count in forms.items()}
    assert shares == {"position": pytest.approx(0.8, abs=0.1), "code": pytest.approx(0.1, abs=0.07),
                      "words": pytest.approx(0.1, abs=0.07)}  # fmt: skip


def test_inverted_images_say_monochrome1_and_hold_inverted_pixels(many):
    photometry = set()
    for view, dataset in many[::7]:
        photometry.add(dataset.PhotometricInterpretation)
        inverse = dataset.PhotometricInterpretation == "MONOCHROME1"
        pixels = dataset.pixel_array
        assert (pixels == (4095 - view.pixels if inverse else view.pixels)).all()
    assert photometry == {"MONOCHROME1", "MONOCHROME2"}


def test_the_spacing_is_in_mm_and_a_weight_is_that_of_the_animal(many):
    plan = plan_study(SMALL, 3)
    for view, dataset in many[::60]:
        assert float(dataset.ImagerPixelSpacing[0]) == pytest.approx(view.rays.pixel * 10, abs=1e-5)
        assert float(dataset.PatientWeight) == pytest.approx(15 * plan.animal.size**3, abs=0.06)
        assert dataset.PatientID == plan.patient


def test_uids_are_valid_and_differ_by_key_seed_and_side():
    uids = {dicom_uid(config, "image", n) for n in range(3)
            for config in (SMALL, replace(SMALL, seed=4), replace(SMALL, side=96))}  # fmt: skip
    assert len(uids) == 9
    assert all(pydicom.uid.UID(uid).is_valid for uid in uids)
