"""The projection comes from the most reliable tag that names one."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from tests.platform.ingest.radiographs import radiograph
from vetdino.platform.data.study import PROJECTIONS
from vetdino.platform.dicom.projection import laterality_of, projection_of, projection_of_text, view_of_text


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
    ("text", "view"),
    [
        ("L-CC", ("CC", "L")),
        ("R-MLO", ("MLO", "R")),
        ("RMLO", ("MLO", "R")),
        ("LCC", ("CC", "L")),
        ("RXCCL", ("CC", "R")),
        ("MLO L", ("MLO", "L")),
        ("LML", ("LATERAL", "L")),
        ("LT LAT", ("LLAT", "")),
        ("LEFT LAT", ("LLAT", "")),
        ("LAT RT", ("RLAT", "")),
        ("LT LAT KNEE", ("LATERAL", "L")),
        ("right knee lateral", ("LATERAL", "R")),
        ("AP right hand", ("AP", "R")),
        ("PA L", ("PA", "L")),
        ("LEFT", ("UNKNOWN", "L")),
        ("R/L AP", ("AP", "")),
        ("left and right AP", ("AP", "")),
        ("UPRIGHT LATERAL", ("LATERAL", "")),
        ("Lateral L-Spine", ("LATERAL", "")),
        ("AP L-Spine", ("AP", "")),
        ("AP right decubitus", ("AP", "")),
        ("RAO", ("OBLIQUE", "")),
        ("LPO", ("OBLIQUE", "")),
        ("LL", ("LL", "")),
        ("RL", ("LATERAL", "")),
        ("AP light", ("AP", "")),
        ("", ("UNKNOWN", "")),
    ],
)
def test_words_name_a_projection_and_a_side(text, view):
    assert view_of_text(text) == view


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
        ({"ViewPosition": "L LAT", "BodyPartExamined": "KNEE"}, ("LATERAL", "ViewPosition")),
        ({"ViewPosition": "RMLO", "SeriesDescription": "CC"}, ("MLO", "ViewPosition")),
    ],
)
def test_the_projection_comes_from_the_first_tag_that_tells(tags, expected):
    assert projection_of(radiograph(**tags)) == expected


def test_a_view_code_names_the_projection_and_the_side():
    code = Dataset()
    code.CodeMeaning = "left cranio-caudal"
    assert laterality_of(radiograph(ViewPosition=None, ViewCodeSequence=[code])) == "L"
    code.CodeMeaning = "ventro-dorsal"
    assert projection_of(radiograph(ViewPosition=None, ViewCodeSequence=[code])) == ("VD", "ViewCodeSequence")


@pytest.mark.parametrize(
    ("tags", "side"),
    [
        ({}, ""),
        ({"Laterality": "L"}, "L"),
        ({"ImageLaterality": "R", "Laterality": "L"}, "R"),
        ({"ImageLaterality": "B", "Laterality": "L"}, "L"),
        ({"ViewPosition": "RMLO"}, "R"),
        ({"ViewPosition": "RMLO", "ImageLaterality": "L"}, "L"),
        ({"ViewPosition": "LT LAT"}, ""),
        ({"ViewPosition": "LT LAT", "BodyPartExamined": "KNEE"}, "L"),
        ({"ViewPosition": None, "SeriesDescription": "L-CC"}, "L"),
        ({"ViewPosition": "AP", "SeriesDescription": "left"}, ""),
    ],
)
def test_the_laterality_is_left_right_or_unknown(tags, side):
    assert laterality_of(radiograph(**tags)) == side
