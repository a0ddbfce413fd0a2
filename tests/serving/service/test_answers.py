"""JSON of the engine's results: no patient in it, unknown is null."""

from __future__ import annotations

import math

from vetdino.platform.data.study import StoredView
from vetdino.serving.engine.engine import ShownMatch
from vetdino.serving.engine.errors import RefusedError
from vetdino.serving.gallery.metadata import GalleryItem
from vetdino.serving.gallery.searching import GalleryMatch
from vetdino.serving.service.answers import item_error, match_answer, missing_answer, view_answer
from vetdino.serving.service.schemas import MatchAnswer

FINDINGS = {"mass": 1.0, "cyst": 0.0, "fracture": math.nan}
ITEM = GalleryItem(3, "key3", "", "patient-canary", "test", ("LLAT", "VD"), FINDINGS)


def test_a_match_is_as_the_schema_says_and_names_no_patient():
    shown = ShownMatch(GalleryMatch(ITEM, 0.5), ("test", 4), (StoredView(b"x", "VD", "", "DX"),))
    answer = match_answer(shown)
    assert MatchAnswer.model_validate(answer).findings == {"mass": True, "cyst": False, "fracture": None}
    assert (answer["study"], answer["score"]) == ("test-4", 0.5)
    assert answer["views"] == [{"projection": "VD", "laterality": "", "modality": "DX"}]
    assert "patient-canary" not in str(answer)
    assert match_answer(ShownMatch(GalleryMatch(ITEM, 0.5), None))["study"] is None


def test_a_view_is_told_without_its_facts_and_an_error_with_its_limit():
    assert view_answer(StoredView(b"x", "VD", "L", "DX", (0.1, 0.1), {"doubts": "x"})) == {
        "projection": "VD",
        "laterality": "L",
        "modality": "DX",
    }
    assert item_error(RefusedError(413, "TOO_LARGE", "big", "megapixels")) == {
        "error": "big",
        "error_type": "TOO_LARGE",
        "limit": "megapixels",
    }
    assert missing_answer(((0, 9),)) == [[0, 9]]
