"""Looking at studies over HTTP: lists, pictures, uploads, similar patches, attention."""

from __future__ import annotations

import io
import json

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from vetdino.serving.service.api import create_app
from vetdino.serving.service.wire import NPY


def form(files):
    return [("files", ("name", file, "application/octet-stream")) for file in files]


@pytest.mark.parametrize(
    ("path", "status", "fact"),
    [
        ("/v1/studies/test-99", 404, "There is no study test-99 here"),
        ("/v1/studies/etc-passwd", 404, "names no study"),
        ("/v1/studies/..%2F..%2Fetc%2Fpasswd", 404, ""),
        ("/v1/studies/test-0/9.jpg", 404, "there is no view 9"),
        ("/v1/studies/test-0/x.jpg", 422, "view: "),
        ("/v1/studies/test-0/0/attention/7.jpg", 404, "no such head"),
        ("/v1/similarity?a=test-0/0&b=test-0/1&backbone=8", 404, "There is no backbone 8"),
        ("/v1/similarity?a=test-0/0&b=test-0", 404, "names no view"),
        ("/v1/similarity?a=test-0/0", 422, "b: "),
        ("/v1/studies/nobody/neighbours", 404, "no study of this name"),
        ("/v1/studies/upload-00/neighbours", 404, "no such upload"),
        ("/v1/studies/test-0/neighbours?k=100000", 422, "at most 1000"),
        ("/v1/studies/test-0/neighbours?only_show=true", 422, "1 unknown parameters of the query"),
        ("/v1/info?x=1", 422, "none is known here"),
        (f"/v1/similarity?a=test-{'9' * 80}/0&b=test-0/1", 404, "names no study"),
        ("/v1/nothing", 404, "Not Found"),
    ],
)
def test_an_error_is_one_sentence(http, path, status, fact):
    answer = http.get(path)
    assert answer.status_code == status
    assert set(answer.json()) - {"limit"} == {"error", "error_type", "request_id"}
    assert fact in answer.json()["error"]


@pytest.mark.parametrize(("query", "shape"), [("?side=60", (60, 40)), ("", (240, 160))])
def test_pictures_are_no_larger_than_asked_for(http, query, shape):
    encoded = http.get(f"/v1/studies/test-0/0.jpg{query}").content
    assert cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED).shape == shape


def test_studies_are_listed_without_counting_those_that_pass(http):
    counted = http.get("/v1/studies?present=lung_mass&count=2").json()
    listed = http.get("/v1/studies?present=lung_mass&count=2&counted=false").json()
    assert counted["total"] == 4
    assert listed == counted | {"total": None}


def test_studies_are_listed_a_page_at_a_time_and_filtered(http, studies):
    first = http.get("/v1/studies?count=3").json()
    rest = http.get(f"/v1/studies?count=3&after={first['next']}").json()
    assert (first["total"], rest["next"]) == (5, None)
    listed = first["studies"] + rest["studies"]
    assert [one["study"] for one in listed] == [f"test-{n}" for n in range(5)]
    assert [one["key"] for one in listed] == [study.key for study in studies]
    assert listed[2]["findings"] == {"enlarged_heart": False, "lung_mass": None}
    chosen = http.get("/v1/studies?present=enlarged_heart&projection=LLAT").json()
    assert [one["study"] for one in chosen["studies"]] == ["test-1"]
    assert http.get("/v1/studies?split=train").json()["total"] == 0


def test_neighbors_are_of_other_patients_under_both_spellings(http, studies):
    british = http.get("/v1/studies/test-0/neighbours?only_shown=true").json()
    assert british == http.get("/v1/studies/test-0/neighbors?only_shown=true").json()
    assert {match["study"] for match in british["matches"]} == {"test-2", "test-3", "test-4"}
    assert all(match["views"] for match in british["matches"])
    by_key = http.get(f"/v1/studies/{studies[0].key}/neighbors").json()
    assert [match["key"] for match in by_key["matches"]] == [match["key"] for match in british["matches"]]


def test_an_upload_belongs_to_its_session(engine, files):
    with (
        TestClient(create_app(engine), base_url="http://127.0.0.1") as mine,
        TestClient(create_app(engine), base_url="http://127.0.0.1") as other,
    ):
        answer = mine.post("/v1/uploads", files=form(files))
        assert answer.status_code == 200
        assert "HttpOnly" in answer.headers["set-cookie"]
        assert "SameSite=strict" in answer.headers["set-cookie"]
        name = answer.json()["study"]
        again = mine.post("/v1/uploads", files=form(files[:1])).json()["study"]
        other.post("/v1/uploads", files=form(files[:1]))
        paths = [f"/v1/studies/{name}", f"/v1/studies/{name}/0.jpg", f"/v1/studies/{name}/neighbors"]
        paths += [f"/v1/studies/{name}/0/attention/mean.jpg", f"/v1/similarity?a={name}/0&b=test-0/1"]
        for path in paths:
            assert mine.get(path).status_code == 200, path
            assert other.get(path).status_code == 404, path
        assert mine.get(f"/v1/studies/{again}").status_code == 200
        assert other.delete(f"/v1/studies/{name}").status_code == 404
        assert mine.delete(f"/v1/studies/{name}").status_code == 200
        assert mine.get(f"/v1/studies/{name}").status_code == 404


@pytest.mark.parametrize("cookie", ["", "x", "../../etc", "0" * 33])
def test_a_session_that_we_did_not_name_is_none(http, files, cookie):
    http.cookies.set("vetdino_session", cookie)
    answer = http.post("/v1/uploads", files=form(files[:1]))
    assert f"vetdino_session={cookie};" not in answer.headers["set-cookie"]


def test_the_matrix_of_two_views_has_a_header_and_rows(http):
    content = http.get("/v1/similarity?a=test-0/0&b=test-0/2").content
    length = int.from_bytes(content[:4], "little")
    header = json.loads(content[4 : 4 + length])
    rows = np.frombuffer(content[4 + length :], np.uint8).reshape(128, 128)
    assert (rows.diagonal() == 255).all()
    assert -1 <= header["low"] < header["high"] <= 1.001
    assert [(view["height"], view["width"]) for view in header["views"]] == [(240, 160), (140, 230)]
    assert [len(view["boxes"]) for view in header["views"]] == [64, 64]


def test_a_patch_is_compared_by_files_and_by_names(http, files):
    by_files = http.post("/v1/similarity?patch=27", files=form(files[:2])).json()
    assert (len(by_files["scores"]), len(by_files["best"])) == (64, 5)
    assert by_files["best"][0]["score"] == max(by_files["scores"][box["patch"]] for box in by_files["best"])
    scores = http.post("/v1/similarity?patch=27", files=form(files[:2]), headers={"Accept": NPY})
    np.testing.assert_array_equal(
        np.load(io.BytesIO(scores.content)), np.array(by_files["scores"], np.float32)
    )
    names = {"a": "test-0/0", "b": "test-0/0"}
    by_point = http.post("/v1/similarity?x=0.5&y=0.5&k=1", json=names).json()
    assert by_point["best"][0]["patch"] == by_point["patch"]
    assert by_point["best"][0]["score"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 422),
        ("?x=0.5", 422),
        ("?x=1&y=0", 422),
        ("?x=nan&y=0", 422),
        ("?patch=64", 422),
        ("?patch=-1", 422),
    ],
)
def test_a_patch_that_there_is_not_is_refused(http, query, status):
    names = {"a": "test-0/0", "b": "test-0/1"}
    assert http.post(f"/v1/similarity{query}", json=names).status_code == status


def test_attention_is_a_row_for_each_head(http, files):
    by_file = http.post("/v1/attention", files=form(files[:1])).json()
    assert np.array(by_file["attention"]).shape == (3, 64)
    by_name = http.post("/v1/attention", json={"view": "test-0/0"}, headers={"Accept": NPY})
    assert np.load(io.BytesIO(by_name.content)).shape == (3, 64)
    assert http.post("/v1/attention", files=form(files[:2])).status_code == 422


@pytest.mark.parametrize(
    "name",
    ["test-" + "9" * 5000, "test-" + "٣" * 5000, "x" * 100_000, "upload-" + "9" * 9999],
    ids=["digits", "other digits", "name", "upload"],
)
@pytest.mark.parametrize("view", ["0", "9" * 5000], ids=["0", "digits"])
def test_a_very_long_name_names_nothing(http, name, view):
    pair = {"a": f"{name}/{view}", "b": "test-0/1"}
    answers = [http.post("/v1/similarity?patch=1", json=pair)]
    answers.append(http.post("/v1/similarity?patch=1", json={"a": "test-0/1", "b": pair["a"]}))
    answers.append(http.post("/v1/attention", json={"view": pair["a"]}))
    for answer in answers:
        assert answer.status_code == 404
        assert len(answer.text) < 500
