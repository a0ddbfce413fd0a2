"""Maps for a page that draws them itself: attention head by head, and patch tokens as colors."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from vetdino.serving.service.wire import NPY


def parts(content: bytes):
    length = int.from_bytes(content[:4], "little")
    assert length % 4 == 0
    return json.loads(content[4 : 4 + length]), content[4 + length :]


def test_attention_has_a_row_for_each_head_and_the_patches(http):
    header, numbers = parts(http.get("/v1/attention?view=test-0/2").content)
    rows = np.frombuffer(numbers, "<f4").reshape(header["heads"], -1)
    exact = http.post("/v1/attention", json={"view": "test-0/2"}, headers={"Accept": NPY})
    np.testing.assert_array_equal(rows, np.load(io.BytesIO(exact.content)))
    assert (header["view"]["height"], header["view"]["width"]) == (140, 230)
    assert len(header["view"]["boxes"]) == len(header["view"]["inside"]) == rows.shape[1] == 64


def test_backbones_attend_differently(http):
    first, second = (http.get(f"/v1/attention?view=test-0/2&backbone={n}").content for n in (0, 1))
    assert first != second


def test_colors_are_of_all_views_of_the_studies_together(http):
    header, colors = parts(http.get("/v1/pca?study=test-0&study=test-3").content)
    assert [(view["study"], view["view"]) for view in header["views"]] == [
        ("test-0", 0),
        ("test-0", 1),
        ("test-0", 2),
        ("test-3", 0),
    ]
    rgba = np.frombuffer(colors, np.uint8).reshape(4, 64, 4)
    assert rgba[..., :3].std() > 20
    inside = np.array([view["inside"] for view in header["views"]])
    assert (rgba[..., 3] == np.where(inside, 255, 0)).all()
    assert 0 < sum(header["shares"]) <= 1
    _, alone = parts(http.get("/v1/pca?study=test-3").content)
    assert not np.array_equal(np.frombuffer(alone, np.uint8).reshape(64, 4), rgba[3])
    _, bare = parts(http.get("/v1/pca?study=test-3&background=false").content)
    shown = np.frombuffer(bare, np.uint8).reshape(64, 4)[:, 3] > 0
    assert 0 < shown.sum() < inside[3].sum()
    header, _ = parts(http.get("/v1/pca?study=test-0&study=test-0").content)
    assert len(header["views"]) == 3


@pytest.mark.parametrize(
    ("path", "status", "fact"),
    [
        ("/v1/attention?view=test-0", 404, "names no view"),
        ("/v1/attention?view=test-0/9", 404, "there is no view 9"),
        ("/v1/attention", 422, "view: "),
        ("/v1/attention?view=test-0/0&backbone=8", 404, "There is no backbone 8"),
        ("/v1/pca?study=test-99", 404, "There is no study test-99 here"),
        ("/v1/pca", 422, "study: "),
        ("/v1/pca?study=test-0&study=test-1&study=test-2", 422, "study: "),
        ("/v1/pca?study=upload-00", 404, "no such upload"),
    ],
)
def test_an_error_is_one_sentence(http, path, status, fact):
    answer = http.get(path)
    assert answer.status_code == status
    assert fact in answer.json()["error"]
