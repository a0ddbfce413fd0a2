"""JSON of the engine's results: no patient in it, unknown is null."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import vetdino
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


MANUAL = Path(vetdino.__file__).parent / "docs" / "service.md"


def names(answer: Any) -> Any:
    """What an answer holds by which names, and how deep; lists by their first element."""
    if isinstance(answer, dict):
        return {name: names(value) for name, value in answer.items()}
    return [names(answer[0])] if isinstance(answer, list) and answer else isinstance(answer, list)


def test_the_manual_quotes_answers_as_they_are(http, files):
    blocks = re.findall(r"```json\n(.*?)```", MANUAL.read_text(encoding="utf-8"), re.S)
    embedded, searched, query, error = map(json.loads, blocks)
    form = [("files", ("name", file, "application/dicom")) for file in files]
    answer = http.post("/v1/embed", files=form).json()
    assert names(answer) == names(embedded)
    assert names(http.post("/v1/search", files=form).json()) == names(searched)
    query["vectors"] = [answer["items"][0]["vector"]] * 2
    assert http.post("/v1/search", json=query).status_code == 200
    refused = http.post("/v1/search?k=5000", json=query).json()
    assert refused | {"request_id": ""} == error | {"request_id": ""}
