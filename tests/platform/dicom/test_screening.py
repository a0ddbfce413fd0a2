"""The policies for burned-in text, by tag and by pixels."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from tests.platform.ingest.radiographs import radiograph
from vetdino.platform.core import extras
from vetdino.platform.core.errors import ConfigError, DicomError
from vetdino.platform.data.study import View
from vetdino.platform.dicom import screening
from vetdino.platform.dicom.burned_in import TextBox
from vetdino.platform.dicom.config import DicomConfig
from vetdino.platform.dicom.screening import screened, with_known_search

BOX = TextBox(0.1, 0.2, 0.3, 0.8)
VIEW = View(np.full((40, 50), 7, np.uint8), facts={"voi": "none"})


@pytest.fixture
def texts(monkeypatch):
    """What successive searches find, instead of the networks."""
    found: list[tuple[TextBox, ...]] = []
    monkeypatch.setattr(screening, "find_text", lambda pixels: found.pop(0))
    return found


def tagged(value: str | None):
    return radiograph(BurnedInAnnotation=value)


def searching(policy: str, search: str = "untagged") -> DicomConfig:
    return DicomConfig(burned_in=policy, search_text=search)


def test_where_nothing_is_found_the_view_says_that_it_was_searched(texts):
    texts += [(), (), ()]
    for policy in ("refuse", "mask", "report"):
        assert screened(VIEW, tagged(None), searching(policy)).facts == {"voi": "none", "text": "none"}
    assert screened(VIEW, None, searching("keep")) is VIEW
    assert screened(VIEW, None, searching("refuse", "none")) is VIEW


def test_found_text_is_refused_masked_or_reported(texts):
    texts += [(BOX,), (BOX,), (), (BOX,)]
    with pytest.raises(DicomError, match=r"BURNED_IN: text in the pixels at 0.1000 0.2000 0.3000 0.8000"):
        screened(VIEW, tagged(None), searching("refuse"))
    masked = screened(VIEW, tagged(None), searching("mask"))
    assert masked.facts["text"] == "masked 0.1000 0.2000 0.3000 0.8000"
    reported = screened(VIEW, None, searching("report"))
    assert reported.facts["text"] == "kept 0.1000 0.2000 0.3000 0.8000"
    assert reported.pixels is VIEW.pixels


def test_text_that_painting_over_does_not_remove_is_refused(texts):
    texts += [(BOX,)] * 4
    with pytest.raises(DicomError, match="that painting over does not remove"):
        screened(VIEW, None, searching("mask"))


def test_a_tag_of_yes_without_text_found_is_not_masked_but_refused(texts):
    texts += [(), ()]
    with pytest.raises(DicomError, match="BURNED_IN: the header says so"):
        screened(VIEW, tagged("YES"), searching("mask"))
    assert screened(VIEW, tagged("YES"), searching("report")).facts["text"] == "none; tagged"


def test_a_tag_of_no_is_believed_unless_all_are_searched(texts):
    texts += [(BOX,)]
    assert screened(VIEW, tagged("NO"), searching("refuse")) is VIEW
    with pytest.raises(DicomError, match="BURNED_IN"):
        screened(VIEW, tagged("NO"), searching("refuse", "all"))


def test_whether_pixels_are_searched_is_decided_once_and_said(monkeypatch, caplog):
    config = DicomConfig()
    assert with_known_search(config).search_text == "untagged"
    assert with_known_search(searching("keep", "auto")).search_text == "none"
    assert not caplog.records
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert with_known_search(config).search_text == "none"
    assert "pixels are not searched for burned-in text" in caplog.text
    assert "pip install 'vetdino[ocr]'" in caplog.text


@pytest.mark.parametrize(
    "dicom", [searching("mask", "auto"), searching("report", "all"), searching("refuse", "all")]
)
def test_a_search_that_cannot_be_done_is_refused_first(monkeypatch, dicom):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs rapidocr: pip install 'vetdino\[ocr\]'"):
        with_known_search(dicom)


def test_masking_without_a_search_is_a_contradiction():
    with pytest.raises(ConfigError, match="burned_in mask needs the pixels searched"):
        searching("mask", "none")
