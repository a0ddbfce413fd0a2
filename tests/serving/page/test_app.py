"""Serving the app: the port, Ctrl-C, and missing extras."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

import httpx
import pytest

from vetdino.platform.core.errors import ConfigError
from vetdino.serving.app import serve

pytestmark = [
    # gradio and starlette warn about each other's versions while they are imported
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:starlette"),
]


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
    assert answers[0]["archive"] == "drawn"
    assert f"http://127.0.0.1:{port}" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["fastapi", "gradio", "uvicorn"])
def test_a_missing_library_is_named_with_its_extra(config_with, folder, monkeypatch, missing):
    monkeypatch.setattr("vetdino.platform.core.extras.has_extra", lambda library: library != missing)
    with pytest.raises(ConfigError, match=rf"{missing}.*vetdino\[serve\]"):
        serve(config_with(shards=folder / "nowhere"))
