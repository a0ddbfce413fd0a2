"""The projection comes from the most reliable tag that names one."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from tests.platform.ingest.radiographs import radiograph
from vetdino.platform.data.study import PROJECTIONS
from vetdino.platform.ingest.projection import laterality_of, projection_of, projection_of_text


@pytest.mark.parametrize(
    ("text", "projection"),
    [
        ("", "UNKNOWN"),
        ("FRONTAL", "UNKNOWN"),
        ("Smith", "UNKNOWN"),
        ("AP_SUPINE", "AP"),
        ("pa", "PA"),
        ("V/D", "VD"),
        ("ventro-dorsal", "VD"),
        ("Thorax DV", "DV"),
        ("LLAT", "LLAT"),
        ("L LAT", "LLAT"),
        ("Abdomen right lateral", "RLAT"),
        ("Lat R", "RLAT"),
        ("LAT", "LATERAL"),
        ("medio-lateral oblique", "MLO"),
        ("MLO", "MLO"),
        ("RAO", "OBLIQUE"),
        ("cranio-caudal", "CC"),
        ("LL", "LL"),
    ],
)
def test_words_name_a_projection(text, projection):
    assert projection_of_text(text) == projection
    assert projection in PROJECTIONS


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"ViewPosition": None}, ("UNKNOWN", "none")),
        ({"ViewPosition": "DV", "SeriesDescription": "VD"}, ("DV", "ViewPosition")),
        ({"ViewPosition": None, "SeriesDescription": "thorax VD"}, ("VD", "SeriesDescription")),
        ({"ViewPosition": "SPECIAL", "PatientOrientation": ["CD", "V"]}, ("LATERAL", "PatientOrientation")),
        ({"ViewPosition": None, "PatientOrientation": ["L", "F"]}, ("UNKNOWN", "none")),
        ({"ViewPosition": "LAT", "ImageLaterality": "R"}, ("RLAT", "ViewPosition+Laterality")),
        ({"ViewPosition": "LAT", "Laterality": "L", "BodyPartExamined": "KNEE"}, ("LATERAL", "ViewPosition")),
    ],
)
def test_the_projection_comes_from_the_first_tag_that_tells(tags, expected):
    assert projection_of(radiograph(**tags)) == expected


def test_a_view_code_names_the_projection():
    code = Dataset()
    code.CodeMeaning = "ventro-dorsal"
    assert projection_of(radiograph(ViewPosition=None, ViewCodeSequence=[code])) == ("VD", "ViewCodeSequence")


@pytest.mark.parametrize(
    ("tags", "side"),
    [
        ({}, ""),
        ({"Laterality": "L"}, "L"),
        ({"ImageLaterality": "R", "Laterality": "L"}, "R"),
        ({"ImageLaterality": "B", "Laterality": "L"}, "L"),
    ],
)
def test_the_laterality_is_left_right_or_unknown(tags, side):
    assert laterality_of(radiograph(**tags)) == side
