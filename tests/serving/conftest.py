"""Small shards with drawn studies of four patients and two random backbones; the app over them, and over a socket."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import uvicorn

from vetdino.platform.data.manifest import Manifest, save_manifest
from vetdino.platform.data.shards import ShardWriter
from vetdino.platform.data.study import Study, View
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.saving import save_backbone
from vetdino.serving.app import mount_page
from vetdino.serving.config import AppConfig
from vetdino.serving.state import AppState

PATIENTS = ["rex-canary-01", "rex-canary-01", "mia-canary-02", "bob-canary-03", "zoe-canary-04"]
"""Patient of each study; no answer may contain one."""


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """A body with a bright spot somewhere in it."""
    y, x = np.mgrid[:height, :width]
    body = ((x - width / 2) / (0.3 * width)) ** 2 + ((y - height / 2) / (0.42 * height)) ** 2 < 1
    random = np.random.default_rng(seed)
    row, column = height * random.uniform(0.3, 0.7), width * random.uniform(0.4, 0.6)
    spot = np.hypot(y - row, x - column) < 0.07 * height
    return (20 + 110 * body + 90 * spot + random.normal(0, 4, (height, width))).clip(0, 255).astype(np.uint8)


def drawn_studies() -> list[Study]:
    """Three views each, but for study 3, which has one."""
    made = []
    for number, patient in enumerate(PATIENTS):
        views = [
            View(picture(240, 160, number), "VD", modality="DX"),
            View(picture(150, 220, number + 50), "DV", modality="DX"),
            View(picture(140, 230, number + 90), "LLAT", modality="DX"),
        ]
        views = views[:1] if number == 3 else views
        labels = {"enlarged_heart": float(number % 2), "lung_mass": np.nan if number == 2 else 1.0}
        key = f"{number}canarykey{number:012d}"
        made.append(Study(key=key, patient=patient, views=tuple(views), labels=labels, split="test"))
    return made


@pytest.fixture(scope="session")
def studies() -> list[Study]:
    return drawn_studies()


@pytest.fixture(scope="session")
def folder(studies, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`shards`, `backbone0` and `backbone1`."""
    folder = tmp_path_factory.mktemp("app")
    with ShardWriter(folder / "shards", "test") as writer:
        for study in studies:
            writer.write(study)
    findings = tuple(studies[0].labels)
    manifest = Manifest(1, "drawn", findings, tuple(writer.shards), counts={}, config_digest="")
    save_manifest(folder / "shards", manifest)
    for seed, label in enumerate(["shipped: pretrained on drawings", "just trained by this test"]):
        config = BackboneConfig(name="vit_tiny_patch16_224", side=64, patch=8, width=48, heads=3, depth=2)
        backbone = random_backbone(config, seed)
        backbone.card = replace(backbone.card, label=label)
        save_backbone(folder / f"backbone{seed}", backbone)
    return folder


@pytest.fixture(scope="session")
def config_with(folder) -> Callable[..., AppConfig]:
    """(changes) -> settings of an app with both backbones and random weights."""

    def config(**changes) -> AppConfig:
        backbones = (folder / "backbone0", folder / "backbone1", "random")
        return AppConfig(**({"shards": folder / "shards", "backbones": backbones} | changes))

    return config


@pytest.fixture(scope="session")
def state(config_with) -> AppState:
    return AppState(config_with())


@pytest.fixture(scope="session")
def address(state) -> Iterator[str]:
    """URL of the running app."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(mount_page(state), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = server.force_exit = True
        thread.join()
