"""Embedding, search and changes of a gallery over HTTP."""

from __future__ import annotations

import io
from dataclasses import replace
from shutil import copytree

import numpy as np
import pytest
from fastapi.testclient import TestClient

from tests.serving.conftest import dicom_file
from vetdino.platform.models.loading import load
from vetdino.serving.config import Limits, ServiceConfig
from vetdino.serving.engine.opening import open_engine
from vetdino.serving.service.api import create_app
from vetdino.serving.service.auth import AccessTokens
from vetdino.serving.service.wire import NPY, npy_bytes

ADMIN = "a" * 20
AS_ADMIN = {"Authorization": f"Bearer {ADMIN}"}


def form(files):
    return [("files", ("name", file, "application/octet-stream")) for file in files]


def array(answer) -> np.ndarray:
    assert answer.headers["content-type"] == NPY
    return np.load(io.BytesIO(answer.content), allow_pickle=False)


@pytest.fixture(scope="module")
def expected(folder, files):
    backbone = load(folder / "backbone0")
    return backbone.embed_study(files), backbone.card.digest


def test_a_study_of_several_files_has_one_vector(http, files, expected):
    answer = http.post("/v1/embed", files=form(files))
    assert answer.status_code == 200
    body = answer.json()
    (item,) = body["items"]
    np.testing.assert_allclose(item["vector"], expected[0], rtol=0, atol=2e-6)
    assert (body["digest"], body["dimensions"], body["level"]) == (expected[1], 48, "study")
    assert [view["projection"] for view in item["views"]] == ["VD", "DV", "LLAT"]


def test_the_same_as_npy_in_both_precisions(http, files, expected):
    for dtype in ("float32", "float16"):
        answer = http.post(f"/v1/embed?dtype={dtype}", files=form(files), headers={"Accept": NPY})
        vector = array(answer)
        assert (vector.shape, vector.dtype) == ((1, 48), dtype)
        np.testing.assert_allclose(vector[0], expected[0], rtol=0, atol=1e-3)
        assert answer.headers["x-vetdino-digest"] == expected[1]


def test_images_and_patches_are_a_row_for_each_file(http, files):
    images = http.post("/v1/embed?level=image", files=form(files)).json()["items"]
    assert [len(item["vector"]) for item in images] == [48] * 3
    patches = array(http.post("/v1/embed?level=patch", files=form(files), headers={"Accept": NPY}))
    assert patches.shape == (3, 64, 48)
    as_json = http.post("/v1/embed?level=patch", files=form(files[:1])).json()["items"]
    np.testing.assert_allclose(as_json[0]["tokens"], patches[0], rtol=0, atol=1e-5)


def test_a_bad_file_is_its_own_error_among_images_and_the_whole_one_s_of_a_study(http, files):
    mixed = form([files[0], dicom_file(np.full((50, 40), 7, np.uint8)), b"PK\x03\x04"])
    first, second, third = http.post("/v1/embed?level=image", files=mixed).json()["items"]
    assert len(first["vector"]) == 48
    assert (second["error_type"], third["error_type"]) == ("LOW_CONTRAST", "NOT_PICTURE")
    study = http.post("/v1/embed", files=mixed)
    assert (study.status_code, study.json()["error"]) == (
        422,
        "file 1: LOW_CONTRAST: fewer than 8 grey levels",
    )
    assert http.post("/v1/embed?level=image", files=mixed, headers={"Accept": NPY}).status_code == 422


@pytest.mark.parametrize(
    ("path", "kind", "content", "status", "fact"),
    [
        ("/v1/embed", "application/dicom", b"PK\x03\x04", 415, "neither DICOM nor PNG nor JPEG"),
        ("/v1/embed", "application/gzip", b"\x1f\x8b", 415, "Content-Type"),
        ("/v1/embed?level=voxel", "image/png", b"x", 422, "level: "),
        ("/v1/embed?backbone=9", "image/png", b"x", 404, "no backbone 9"),
        ("/v1/embed?backbone=-1", "image/png", b"x", 422, "backbone: "),
        ("/v1/search?k=1001", "application/json", b'{"vectors":[[1]]}', 422, "at most 1000"),
        ("/v1/search?k=0", "application/json", b'{"vectors":[[1]]}', 422, "k: "),
        ("/v1/search", "application/json", b'{"vectors":[[1]]}', 422, "the gallery has 48"),
        ("/v1/search?exclude_patients=abc", "application/json", b'{"vectors":[[1]]}', 422, "1 unknown"),
        ("/v1/embed?exclude=CANARY&CANARY", "image/png", b"x", 422, "those known here are backbone, dtype"),
        ("/v1/search?digest=abc", "application/json", b'{"vectors":[[1]]}', 409, "not of the digest"),
        ("/v1/search?present=gout", "image/png", b"x", 415, ""),
        ("/v1/search", NPY, b"x", 400, "not a .npy"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_in_one_sentence(
    http, path, kind, content, status, fact
):
    answer = http.post(path, content=content, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert fact in answer.json()["error"]
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_a_search_finds_what_the_gallery_finds(http, engine, files, expected, studies):
    vector = expected[0]
    gallery = engine.indexes[0].current().gallery
    whole = [(match.item.key, match.score) for match in gallery.search(vector[None], 3)[0]]
    answers = [
        http.post("/v1/search?k=3", files=form(files)),
        http.post("/v1/search?k=3", json={"vectors": [vector.tolist()]}),
        http.post("/v1/search?k=3", content=npy_bytes(vector), headers={"Content-Type": NPY}),
    ]
    for answer in answers:
        (matches,) = answer.json()["matches"]
        assert [match["key"] for match in matches] == [key for key, _ in whole]
        np.testing.assert_allclose(
            [match["score"] for match in matches], [score for _, score in whole], atol=1e-5
        )
    assert answers[0].json()["missing"] == []
    assert not any(study.patient in answers[0].text for study in studies)


def test_a_search_leaves_out_patients_and_filters(http, expected, studies):
    query = {"vectors": [expected[0].tolist()] * 2, "exclude_patients": [studies[0].patient, None]}
    first, second = http.post("/v1/search?k=9", json=query).json()["matches"]
    assert (len(first), len(second)) == (3, 5)
    one = {"vectors": query["vectors"][:1]}
    path = f"/v1/search?k=9&exclude_patient={studies[0].patient}"
    assert len(http.post(path, json=one).json()["matches"][0]) == 3
    (present,) = http.post("/v1/search?k=9&present=enlarged_heart", json=one).json()["matches"]
    assert [match["findings"]["enlarged_heart"] for match in present] == [True] * 2
    (absent,) = http.post("/v1/search?k=9&absent=enlarged_heart&projection=LLAT&split=test", json=one).json()[
        "matches"
    ]
    assert all(match["findings"]["enlarged_heart"] is False for match in absent)
    both = http.post("/v1/search?present=lung_mass&absent=lung_mass", json=one)
    assert both.status_code == 422
    assert http.post("/v1/search?present=gout", json=one).status_code == 422
    several = "&".join(f"exclude_patient={study.patient}" for study in studies[:3])
    assert len(http.post(f"/v1/search?k=9&{several}", json=one).json()["matches"][0]) == 2
    both = one | {"exclude_patients": [[studies[3].patient, studies[4].patient]]}
    (match, *rest) = http.post(path, json=both).json()["matches"][0]
    assert (match["key"], rest) == (studies[2].key, [])
    query["exclude_patients"] = [None]
    assert http.post("/v1/search", json=query).status_code == 422


@pytest.fixture
def admin(folder, gallery, tmp_path):
    copytree(gallery, tmp_path / "gallery")
    engine = open_engine(
        ServiceConfig(
            backbones=(folder / "backbone0",),
            galleries=(tmp_path / "gallery",),
            decoders=1,
            limits=Limits(vectors=4, files=2, json_numbers=50),
        )
    )
    with TestClient(
        create_app(engine, AccessTokens({ADMIN: "admin"})), base_url="http://127.0.0.1"
    ) as client:
        client.headers.update(AS_ADMIN)
        yield client
    engine.close()


def item(key: str, vector, **more):
    return {"key": key, "patient": "newpatient", "vector": list(map(float, vector)), **more}


def test_rows_are_added_found_deleted_and_compacted(admin, expected):
    vector, digest = expected
    new = item("newkey", vector, split="val", projections=["VD"], findings={"lung_mass": True})
    added = admin.post("/v1/index/items", json={"digest": digest, "items": [new]})
    assert (added.status_code, added.json()["rows"], added.json()["added"]) == (200, 6, 1)
    (matches,) = admin.post("/v1/search?k=1", json={"vectors": [vector.tolist()]}).json()["matches"]
    assert (matches[0]["key"], matches[0]["split"]) == ("newkey", "val")
    assert matches[0]["findings"] == {"enlarged_heart": None, "lung_mass": True}
    assert admin.get("/v1/studies/newkey/neighbours?k=2").json()["matches"]
    assert admin.get("/health/ready").status_code == 200
    deleted = admin.delete("/v1/index/items?key=newkey").json()
    assert (deleted["rows"], deleted["deleted"]) == (5, 1)
    assert admin.get("/v1/studies/newkey/neighbors").status_code == 404
    assert admin.post("/v1/index/compact").json() | {"gallery": ""} == {
        "gallery": "",
        "rows": 5,
        "added": 0,
        "deleted": 0,
    }


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"digest": "f" * 64}, 409),
        ({"items": []}, 422),
        ({"vector": [1.0]}, 422),
        ({"vector": [0.0] * 48}, 422),
        ({"findings": {"gout": True}}, 422),
        ({"view": "view0"}, 422),
        ({"key": "../x"}, 422),
        ({"projections": ["CANARY name"]}, 422),
        ({"key": "0canarykey000000000000"}, 422),
        ({"times": 5}, 413),
    ],
)
def test_rows_that_do_not_belong_are_refused_and_nothing_changes(admin, expected, changes, status):
    vector, digest = expected
    rows = {"digest": digest, "items": [item("newkey", vector)] * changes.pop("times", 1)}
    for name, value in changes.items():
        if name in rows:
            rows[name] = value
        else:
            rows["items"][0][name] = value
    answer = admin.post("/v1/index/items", json=rows)
    assert answer.status_code == status
    assert admin.get("/v1/info").json()["backbones"][0]["gallery"]["rows"] == 5


def test_what_is_not_there_is_not_deleted(admin):
    assert admin.delete("/v1/index/items?key=nobody").status_code == 404
    assert admin.delete("/v1/index/items").status_code == 422


def test_limits_are_named(admin, files):
    answer = admin.post("/v1/embed", files=form(files))
    assert (answer.status_code, answer.json()["limit"]) == (413, "files")
    answer = admin.post("/v1/search", json={"vectors": [[1.0] * 48] * 5})
    assert (answer.status_code, answer.json()["limit"]) == (413, "vectors")
    answer = admin.post("/v1/embed?level=patch", files=form(files[:1]))
    assert (answer.status_code, answer.json()["limit"]) == (413, "json_numbers")


def test_a_gallery_that_became_another_backbone_s_is_409_and_not_ready(admin, folder, tmp_path, expected):
    from vetdino.platform.measure.extraction import extract
    from vetdino.serving.gallery.build import FeaturesSource, build

    other = extract(load(folder / "backbone1"), folder / "shards", ["test"])
    build(FeaturesSource(other), tmp_path / "gallery")
    answer = admin.post("/v1/search", json={"vectors": [expected[0].tolist()]})
    assert (answer.status_code, answer.json()["error_type"]) == (409, "BackboneMismatch")
    assert str(tmp_path) not in answer.text
    ready = admin.get("/health/ready")
    assert str(tmp_path) not in ready.text
    assert (ready.status_code, ready.json()["error_type"]) == (503, "NotReady")
    assert "retry-after" in ready.headers


def test_in_a_gallery_by_view_every_file_is_a_query(folder, files, tmp_path):
    from vetdino.platform.measure.extraction import extract
    from vetdino.serving.gallery.build import FeaturesSource, build

    table = extract(load(folder / "backbone0"), folder / "shards", ["test"], level="view")
    build(FeaturesSource(table), tmp_path / "gallery")
    config = ServiceConfig(backbones=(folder / "backbone0",), galleries=(tmp_path / "gallery",))
    engine = open_engine(replace(config, decoders=1))
    try:
        with TestClient(create_app(engine), base_url="http://127.0.0.1") as client:
            matches = client.post("/v1/search?k=2", files=form(files)).json()["matches"]
        assert [len(row) for row in matches] == [2, 2, 2]
        assert all(match["view"].startswith("view") for row in matches for match in row)
    finally:
        engine.close()


def test_a_gallery_that_is_damaged_is_503_with_what_to_do(admin, tmp_path, expected):
    (tmp_path / "gallery" / "CURRENT").unlink()
    for answer in (
        admin.post("/v1/search", json={"vectors": [expected[0].tolist()]}),
        admin.get("/v1/info"),
        admin.get("/health/ready"),
        admin.post("/v1/index/compact"),
    ):
        assert answer.status_code == 503
        assert "vetdino index build FEATURES GALLERY" in answer.json()["error"]
        assert str(tmp_path) not in answer.text
        assert "retry-after" in answer.headers


def test_probes_that_come_out_otherwise_are_409_without_a_path(admin, monkeypatch, tmp_path, expected):
    from vetdino.platform.measure.probes import Probes
    from vetdino.serving.gallery.changes import delete

    delete(tmp_path / "gallery", ["0canarykey000000000000"])  # a version that is not checked yet
    monkeypatch.setattr(Probes, "cosines", lambda probes, vectors: np.zeros(8))
    answer = admin.post("/v1/search", json={"vectors": [expected[0].tolist()]})
    assert (answer.status_code, answer.json()["error_type"]) == (409, "BackboneMismatch")
    assert "vetdino index build FEATURES GALLERY" in answer.json()["error"]
    assert str(tmp_path) not in answer.text
