"""Names, views and findings of the studies that the app shows."""

from __future__ import annotations

import pytest

from vetdino.platform.core.errors import ConfigError
from vetdino.serving.studies import (
    NotHereError,
    StudyBrowser,
    findings_by_state,
    parse_study,
    parse_view,
    study_name,
    view_pixels,
)


@pytest.mark.parametrize("place", [("test", 0), ("train", 12)])
def test_a_name_and_its_place_belong_together(place):
    assert parse_study(study_name(place)) == place
    assert parse_view(f"{study_name(place)}/3") == (place, 3)


@pytest.mark.parametrize(
    "name", ["", "etc-passwd", "test-", "test--1", "test-1x", "../test-1/0", "test-" + "9" * 5000, "test-٣"]
)
def test_what_names_no_study_is_refused(name):
    with pytest.raises(NotHereError, match="names no study"):
        parse_study(name)
    with pytest.raises(NotHereError, match="names no"):
        parse_view(name)


def test_findings_are_sorted_by_what_is_known():
    findings = findings_by_state({"lung_mass": 1.0, "rib_fracture": 0.0, "ascites": float("nan")})
    assert findings == {"present": ["lung_mass"], "absent": ["rib_fracture"], "unknown": ["ascites"]}
    assert findings_by_state({}) == {"present": [], "absent": [], "unknown": []}


def test_studies_are_loaded_by_place_and_others_refused(folder, studies):
    browser = StudyBrowser(folder / "shards", "test", None)
    assert browser.count == 5
    assert browser.load(("test", 2)).key == studies[2].key
    for place in (("test", 5), ("train", 0), ("nowhere", 0)):
        with pytest.raises(NotHereError, match=study_name(place)):
            browser.load(place)


def test_a_limit_leaves_later_studies_out_of_the_places(folder, studies):
    browser = StudyBrowser(folder / "shards", "test", 2)
    places = browser.places(["train", "test"])
    keys = [study.key for study in studies[:3]]
    assert places.find([*keys, "elsewhere"]) == [("test", 0), ("test", 1), None, None]
    assert [places.key(("test", place)) for place in (0, 1, 2)] == [*keys[:2], None]
    assert places.key(("train", 0)) is None
    assert browser.load(("test", 1)).key == keys[1]
    with pytest.raises(NotHereError, match="one of the 2"):
        browser.load(("test", 2))


def test_an_empty_split_is_refused_with_the_counts_of_the_others(folder):
    with pytest.raises(ConfigError, match="test 5"):
        StudyBrowser(folder / "shards", "train", None)


def test_a_view_that_a_study_does_not_have_is_refused(studies):
    assert view_pixels(studies[0], 1).shape == (150, 220)
    for view in (-1, 3):
        with pytest.raises(NotHereError, match=f"view {view}"):
            view_pixels(studies[0], view)
