"""Small shards with drawn studies of four patients and two random backbones; the app over them, and over a socket."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from vetdino.platform.data.manifest import Manifest, save_manifest
from vetdino.platform.data.shards import ShardWriter
from vetdino.platform.data.study import Study, View
from vetdino.platform.measure.extraction import extract
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.loading import load
from vetdino.platform.models.saving import save_backbone
from vetdino.serving.config import AppConfig
from vetdino.serving.engine.engine import ServiceEngine
from vetdino.serving.gallery.build import FeaturesSource, build
from vetdino.serving.page.app import mount_page, open_app
from vetdino.serving.service.api import create_app
from vetdino.serving.service.server import timed_protocol

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


CANARY = "CANARY7"
"""Part of every text tag of a generated file; no answer, log, metric or file of the service may contain it."""


def dicom_file(pixels: np.ndarray, projection: str = "VD", **tags: Any) -> bytes:
    """A DICOM file of these pixels, (H, W) uint8, full of canaries."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = "2.25.7"
    usual = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1",
        "SOPInstanceUID": "2.25.7",
        "Modality": "DX",
        "ViewPosition": projection,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "PixelData": pixels.tobytes(),
        "StudyInstanceUID": "2.25.7770707",
        "PatientBirthDate": "17770707",
    }
    texts = ["PatientName", "PatientID", "IssuerOfPatientID", "InstitutionName", "ReferringPhysicianName"]
    texts += ["StudyDescription", "SeriesDescription", "AccessionNumber", "StudyID", "StationName"]
    texts += ["PatientComments", "ImageComments", "OperatorsName", "ProtocolName", "DeviceSerialNumber"]
    for name, value in {**dict.fromkeys(texts, f"{CANARY}^{projection}"), **usual, **tags}.items():
        setattr(dataset, name, value)
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


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
def engine(config_with) -> Iterator[ServiceEngine]:
    """All three backbones, each with a gallery of the drawn studies."""
    with open_app(config_with()) as engine:
        yield engine


@pytest.fixture(scope="session")
def gallery(folder, tmp_path_factory) -> Path:
    """Of backbone0 and the drawn studies; to be copied by whoever changes it."""
    features = extract(load(folder / "backbone0"), folder / "shards", ["test"])
    out = tmp_path_factory.mktemp("gallery")
    build(FeaturesSource(features), out)
    return out


@pytest.fixture(scope="session")
def files(studies) -> list[bytes]:
    """Three views of study 0 as DICOM files that hold canaries in every text tag."""
    return [dicom_file(view.pixels, view.projection) for view in studies[0].views]


@contextmanager
def served(app: Any, header_s: float = 60.0) -> Iterator[str]:
    """URL of an app that runs in a thread."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        settings = uvicorn.Config(app, http=timed_protocol(header_s), log_level="warning")
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = server.force_exit = True
        thread.join()


@pytest.fixture(scope="session")
def server() -> Callable[..., Any]:
    """(app) -> a context with the URL at which it runs."""
    return served


@pytest.fixture(scope="session")
def address(engine) -> Iterator[str]:
    """URL of the running app, page included."""
    with served(mount_page(engine, 0)) as url:
        yield url


@pytest.fixture
def http(engine) -> Iterator[Any]:
    """A client of the service without a socket."""
    with TestClient(create_app(engine), base_url="http://127.0.0.1") as client:
        yield client
