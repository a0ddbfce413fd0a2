"""The page: served with the service, until Ctrl-C; its galleries, and settings that are refused."""

from __future__ import annotations

import os
import re
import signal
import socket
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from vetdino.platform.core.errors import ConfigError, FeaturesError, GalleryError
from vetdino.platform.measure.extraction import extract
from vetdino.platform.measure.features import save_features
from vetdino.platform.models.loading import load
from vetdino.serving.gallery.build import FeaturesSource, build
from vetdino.serving.page.app import open_app, serve

pytestmark = [
    # gradio and starlette warn about each other's versions while they are imported
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:starlette"),
]


@pytest.fixture(scope="module")
def features(folder):
    return extract(load(folder / "backbone0"), folder / "shards", ["test"])


def test_a_port_in_use_is_refused_before_anything_is_loaded(folder, config_with):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}") as refusal:
            serve(config_with(shards=folder / "nowhere", port=port))
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_serving_lasts_until_ctrl_c(folder, config_with, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answers = []

    def stop_once_it_answers() -> None:
        for _ in range(600):
            try:
                answers.append(httpx.get(f"http://127.0.0.1:{port}/v1/info").json())
                break
            except httpx.TransportError:
                time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=stop_once_it_answers)
    watcher.start()
    serve(config_with(port=port, backbones=(folder / "backbone0",)))
    watcher.join()
    assert answers[0]["shards"]["name"] == "drawn"
    assert f"http://127.0.0.1:{port}" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["fastapi", "gradio", "uvicorn"])
def test_a_missing_library_is_named_with_its_extra(config_with, folder, monkeypatch, missing):
    monkeypatch.setattr("vetdino.platform.core.extras.has_extra", lambda library: library != missing)
    with pytest.raises(ConfigError, match=rf"{missing}.*vetdino\[serve\]"):
        serve(config_with(shards=folder / "nowhere"))


@pytest.mark.parametrize("kind", ["table", "gallery"])
def test_what_is_given_is_used_and_that_of_another_backbone_refused(
    kind, features, folder, config_with, tmp_path, monkeypatch
):
    given = tmp_path / ("features.parquet" if kind == "table" else "gallery")
    if kind == "table":
        save_features(features, given)
    else:
        build(FeaturesSource(features), given)

    def embedding(*given, **more):
        raise AssertionError("embedded again")

    monkeypatch.setattr("vetdino.platform.measure.extraction.extract", embedding)
    with open_app(config_with(features=(given,), backbones=(folder / "backbone0",))) as engine:
        assert None not in engine.places.find(features.keys)
        assert engine.indexes[0] is not None
    with (
        pytest.raises(GalleryError) as refusal,
        open_app(config_with(features=(given,), backbones=(folder / "backbone1",))),
    ):
        pass
    for number in (0, 1):
        assert load(folder / f"backbone{number}").card.digest[:12] in str(refusal.value)


def test_galleries_of_the_page_leave_nothing_on_disk(features, folder, config_with, tmp_path, monkeypatch):
    table = tmp_path / "features.parquet"
    save_features(features, table)
    work = Path(tempfile.mkdtemp(prefix="v"))  # a short path: there will be sockets in it
    monkeypatch.setattr("tempfile.tempdir", str(work))
    with open_app(config_with(features=(table,), backbones=(folder / "backbone0",))):
        assert [path.name.startswith("vetdino-galleries-") for path in work.iterdir()] == [True]
    work.rmdir()  # which is empty


def test_backbones_are_loaded_once(features, folder, config_with, tmp_path, monkeypatch):
    loaded = []

    def counted(source, device):
        loaded.append(str(source))
        return load(source)

    monkeypatch.setattr("vetdino.platform.models.loading.load", counted)
    save_features(features, tmp_path / "features.parquet")
    backbones = (folder / "backbone0",)
    with open_app(config_with(features=(tmp_path / "features.parquet",), backbones=backbones)):
        assert loaded == [str(folder / "backbone0")]


def test_a_gallery_by_view_is_refused(features, folder, config_with, tmp_path):
    build(FeaturesSource(replace(features, views=("view0",) * 5)), tmp_path / "gallery")
    with (
        pytest.raises(GalleryError, match="level view"),
        open_app(config_with(features=(tmp_path / "gallery",), backbones=(folder / "backbone0",))),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"side": 33}, "side 33 is not a multiple of"),
        ({"features": (Path("gone.parquet"),)}, "no feature table here"),
        ({"split": "train", "backbones": ("nowhere",)}, "split train holds no studies"),
        ({"backbones": ("random",)}, "backbone folder is needed first"),
        ({"backbones": ()}, "backbone folder is needed first"),
        ({"features": (Path("a"),) * 4}, "4 feature tables for 3 backbones"),
    ],
)
def test_nothing_is_embedded_before_all_settings_are_known_to_fit(changes, fact, config_with, monkeypatch):
    def embedding(*given, **more):
        raise AssertionError("embedded too early")

    monkeypatch.setattr("vetdino.platform.measure.extraction.extract", embedding)
    with pytest.raises((ConfigError, FeaturesError), match=fact), open_app(config_with(**changes)):
        pass


@pytest.mark.slow
def test_no_route_of_gradio_leads_to_a_file_or_takes_one(address, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"\x89PNG canary-secret")
    for route in ("file=", "file/", "stream/"):
        response = httpx.get(f"{address}/gradio_api/{route}{secret}")
        assert response.status_code >= 400
        assert "canary-secret" not in response.text
    call = {"data": [{"path": str(secret)}], "fn_index": 0, "session_hash": "x"}
    for path in ("/gradio_api/run/predict", "/gradio_api/call/predict", "/gradio_api/queue/join"):
        assert httpx.post(address + path, json=call).status_code == 405
    assert httpx.post(f"{address}/gradio_api/upload", files={"files": b"x"}).status_code == 405


@pytest.mark.slow
def test_modules_of_the_page_are_served_and_nothing_beside_them(address):
    module = httpx.get(f"{address}/room/room.js")
    kind = module.headers["content-type"].partition(";")[0]
    assert kind in ("text/javascript", "application/javascript")  # Gradio changes Python's table of types
    assert module.headers["cache-control"] == "no-cache"
    tag = {"If-None-Match": module.headers["etag"]}
    assert httpx.get(f"{address}/room/room.js", headers=tag).status_code == 304
    imported = set(re.findall(r'from "\./([a-z]+\.js)"', module.text))
    assert len(imported) > 5
    shown = httpx.get(f"{address}/").text
    for name in imported:
        assert httpx.get(f"{address}/room/{name}").status_code == 200
        assert f"/room/{name}" in shown  # fetched before Gradio has started
    for path in ("%2e%2e/app.py", "..%2fapp.py", "%2fetc%2fpasswd", "app.py", ""):
        answer = httpx.get(f"{address}/room/{path}")
        assert answer.status_code == 404
        assert "import" not in answer.text


@pytest.mark.slow
def test_no_answer_of_the_page_holds_a_patient(address, studies):
    paths = ["/", "/config", "/v1/info", "/v1/studies"]
    for number in range(len(studies)):
        paths += [f"/v1/studies/test-{number}", f"/v1/studies/test-{number}/neighbours"]
    text = "".join(httpx.get(address + path, follow_redirects=True).text for path in paths)
    assert studies[0].key in text
    assert not any(study.patient in text for study in studies)
