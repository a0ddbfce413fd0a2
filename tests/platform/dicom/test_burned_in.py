"""Text in pixels: names are found in either direction and painted over, markers and anatomy are left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.burned_in.__main__ import ink_of
from vetdino.platform.core import extras
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.dicom.burned_in import (
    MARKERS,
    TextBox,
    box_pixels,
    can_search,
    find_text,
    is_marker,
    painted_over,
    require_search,
)
from vetdino.platform.phantom.config import PhantomConfig
from vetdino.platform.phantom.dog.studies import generate_study


def written(text: str, top: int = 30, left: int = 40, turn: int = 0, gray: int = 230) -> np.ndarray:
    """A smooth picture of 300 x 400 with a text."""
    picture = np.add.outer(np.linspace(20, 60, 300), np.linspace(0, 50, 400))
    ink = np.rot90(ink_of(text, "DejaVuSans.ttf", 14), turn)
    region = picture[top : top + ink.shape[0], left : left + ink.shape[1]]
    region += ink * (gray - region)
    return np.rint(picture).astype(np.uint8)


@pytest.mark.parametrize(
    "text", ["L", "R", "r", "VD", "AP", "AP ERECT", "L LAT", "10", "", "*", "Bettaufnahme", "supine L"]
)
def test_a_marker_names_nobody(text):
    assert is_marker(text)


@pytest.mark.parametrize("text", ["Rex", "MUELLER", "12.03.1961", "ERECT Smith", "ID 5", "4711", "L. Li"])
def test_a_name_a_date_and_a_number_are_no_markers(text):
    assert not is_marker(text)


def test_markers_are_written_as_they_are_compared():
    assert all(word == word.upper() and word.isalpha() for word in MARKERS)


@pytest.mark.slow
@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_a_name_is_found_where_it_is_in_each_direction(turn):
    box, *others = find_text(written("Mueller, Anna", 60, 90, turn))
    assert not others
    ink = np.rot90(ink_of("Mueller, Anna", "DejaVuSans.ttf", 14), turn)
    rows, columns = box_pixels(box, (300, 400))
    assert rows.start <= 62
    assert rows.stop >= 58 + ink.shape[0]
    assert columns.start <= 92
    assert columns.stop >= 88 + ink.shape[1]
    assert rows.stop - rows.start < ink.shape[0] + 30


@pytest.mark.slow
def test_what_is_painted_over_is_gone_and_the_rest_is_untouched():
    picture = written("Smith 12.03.1961 ID 471100")
    boxes = find_text(picture)
    painted = painted_over(picture, boxes)
    assert find_text(painted) == ()
    changed = np.argwhere(painted != picture)
    (top, left), (bottom, right) = changed.min(0), changed.max(0)
    rows, columns = box_pixels(boxes[0], picture.shape)
    assert len(boxes) > 1 or (
        rows.start <= top and bottom < rows.stop and columns.start <= left and right < columns.stop
    )
    assert painted[30:46].max() < 130  # as dark as around it
    deep = painted_over(picture.astype(np.uint16) * 257, boxes)
    assert deep.dtype == np.uint16
    assert np.array_equal(deep // 257, painted)


@pytest.mark.slow
def test_markers_and_anatomy_are_no_text():
    assert find_text(written("R")) == ()
    assert find_text(written("AP ERECT")) == ()
    views = generate_study(PhantomConfig(side=512, seed=0), 0, truth=False).views
    assert [find_text((view.pixels >> 4).astype(np.uint8)) for view in views] == [()] * len(views)


def test_a_box_without_surroundings_becomes_black():
    picture = np.full((20, 30), 90, np.uint8)
    assert not painted_over(picture, [TextBox(0, 0, 1, 1)]).any()
    assert np.array_equal(painted_over(picture, []), picture)


def test_without_the_extra_a_search_is_refused(monkeypatch):
    assert can_search()
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert not can_search()
    with pytest.raises(ConfigError, match=r"a search needs rapidocr: pip install 'vetdino\[ocr\]'"):
        require_search("a search")


@pytest.mark.slow
def test_nothing_is_fetched_printed_or_logged_and_one_thread_works():
    code = """
import socket, logging, threading
def refuse(*args, **kwargs): raise AssertionError("a connection")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
records = []
class Keep(logging.Handler):
    def emit(self, record): records.append(record.getMessage())
logging.getLogger().addHandler(Keep())
logging.getLogger("RapidOCR").addHandler(Keep())
logging.getLogger().setLevel(0)
from tests.platform.dicom.test_burned_in import written, find_text
from vetdino.platform.dicom.burned_in import _reader
assert find_text(written("Mueller, Anna"))
assert not any("ueller" in record for record in records), records
sessions = [_reader().text_det.session.session, _reader().text_rec.session.session]
options = [session.get_session_options() for session in sessions]
assert [(one.intra_op_num_threads, one.inter_op_num_threads) for one in options] == [(1, 1)] * 2
"""
    root = Path(__file__).parents[3]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout + run.stderr == ""
