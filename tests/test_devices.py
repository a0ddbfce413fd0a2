"""Networks compute where the setting says, with the numbers of the CPU; tested on a second device made of the CPU."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.downstream.conftest import write_domain
from tests.downstream.fewshot.learn.conftest import liver_scan
from tests.platform.data.written import a_study, written
from tests.second_device import SECOND, SecondTensor, second_device
from vetdino.downstream.config import EvaluateConfig
from vetdino.downstream.evaluate import EvaluationJob, _sources
from vetdino.downstream.fewshot.learn.config import LearnConfig
from vetdino.downstream.fewshot.learn.encoder import TrainableEncoder
from vetdino.downstream.fewshot.method.config import SliceConfig
from vetdino.downstream.fewshot.method.token_features import TokenFeatures, image_batches
from vetdino.downstream.fewshot.sources import load_source
from vetdino.downstream.ultrasound.config import NoiseConfig, ZeroshotConfig
from vetdino.downstream.ultrasound.domains import read_domains
from vetdino.downstream.ultrasound.experiments.noise import noisy_input
from vetdino.downstream.ultrasound.method.encoding import EncoderPair, FrameEncoder
from vetdino.downstream.views.tokenized import tokenized_views
from vetdino.infra.cli import COMMANDS
from vetdino.infra.commands.embed import Embed
from vetdino.platform.core.device import DeviceConfig
from vetdino.platform.core.location import Location
from vetdino.platform.data.manifest import VERSION, Manifest, save_manifest
from vetdino.platform.data.shards import ShardWriter
from vetdino.platform.data.study import View
from vetdino.platform.measure.features import load_features
from vetdino.platform.models import loading
from vetdino.platform.models.backbone import Backbone, random_backbone, resized
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.loading import load
from vetdino.platform.models.saving import save_backbone
from vetdino.serving.config import AppConfig
from vetdino.serving.page.app import open_app

CONFIG = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=48, heads=2, depth=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("backbone")
    save_backbone(folder, random_backbone(CONFIG, seed=3))
    return folder


@pytest.fixture
def devices(folder, monkeypatch):
    """(the backbone on the CPU, the same where `auto` is the second device)."""
    on_cpu = load(folder)
    with second_device() as device:
        monkeypatch.setattr(
            loading, "resolve_device", lambda choice: torch.device("cpu") if choice == "cpu" else device
        )
        yield on_cpu, load(folder, "auto")


def close(one, other) -> None:
    for part in (one, other):
        assert not isinstance(part, SecondTensor)
    np.testing.assert_allclose(np.asarray(one), np.asarray(other), atol=1e-5, rtol=1e-4)


def test_the_second_device_is_as_strict_as_a_gpu():
    with second_device() as device:
        there = torch.ones(3).to(device)
        assert (there.device, (there + 1).device, (there + 1).cpu().tolist()) == (SECOND, SECOND, [2.0] * 3)
        with pytest.raises(RuntimeError, match="on one device"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()


@pytest.mark.parametrize(
    "name",
    [
        *("embed", "evaluate", "compare-backbones", "app", "zeroshot segment", "zeroshot assess"),
        *("fewshot evaluate", "fewshot compare", "fewshot kshot", "fewshot xdomain", "fewshot segment"),
        *("fewshot train", "fewshot cca-audit", "fewshot ttt-audit"),
    ],
)
def test_every_command_that_runs_a_network_has_the_one_setting(name):
    command = COMMANDS[name].load()
    assert issubclass(command, DeviceConfig)
    assert command.__dataclass_fields__["device"].default == "auto"


def test_a_backbone_is_loaded_onto_the_device_and_its_twins_follow(devices, folder):
    on_cpu, there = devices
    assert (on_cpu.device, there.device, load(folder).device) == (torch.device("cpu"), SECOND, on_cpu.device)
    assert there.card == on_cpu.card
    pair = EncoderPair(there, ZeroshotConfig())
    assert (pair.random.backbone.device, resized(there, 48).device) == (SECOND, SECOND)
    assert load_source(folder, "auto").device == SECOND


def test_an_evaluation_gives_its_device_to_every_source(devices, folder, tmp_path):
    shards = []
    for place, split in enumerate(("train", "val", "test")):
        with ShardWriter(tmp_path / "shards", split) as writer:
            for number in range(20 * place, 20 * place + 20):
                writer.write(replace(a_study(number, split=split), labels={"effusion": float(number % 2)}))
        shards += writer.shards
    save_manifest(tmp_path / "shards", Manifest(VERSION, "two", ("effusion",), tuple(shards), {}, "c0"))
    for device, expected in (("auto", SECOND), ("cpu", torch.device("cpu"))):
        job = EvaluationJob(tmp_path / "shards", tmp_path, EvaluateConfig(device=device))
        sources = _sources({"backbone": folder}, job)
        assert [one.backbone.device for one in sources if one.backbone is not None] == [expected] * 2


def test_embed_computes_there(devices, folder, tmp_path, monkeypatch):
    written(tmp_path / "shards", 5)
    seen = []
    forward = Backbone.forward
    monkeypatch.setattr(
        Backbone, "forward", lambda self, *a, **k: seen.append(self.device) or forward(self, *a, **k)
    )
    tables = []
    for device in ("cpu", "auto"):
        out = tmp_path / device
        Embed(
            backbone=str(folder), shards=Location(tmp_path / "shards"), out=Location(out), device=device
        ).run()
        tables.append(load_features(out).vectors)
    assert set(seen) == {torch.device("cpu"), SECOND}
    close(*tables)


def test_frames_are_encoded_there(devices, tmp_path):
    write_domain(tmp_path / "arm", 1)
    frame = read_domains(tmp_path)[0].frames[0]
    config = NoiseConfig(short=48, stride=4)
    encoders = [FrameEncoder(backbone, config, tokencut=True) for backbone in devices]
    for encoded in (
        [encoder.encode(frame) for encoder in encoders],
        [encoder.encode_input(*noisy_input(frame, encoder.backbone, 0.5, config)) for encoder in encoders],
    ):
        close(encoded[0].descriptors, encoded[1].descriptors)
        close(encoded[0].attention, encoded[1].attention)


@pytest.mark.parametrize(
    "slices",
    [
        SliceConfig(grid=4),
        SliceConfig(grid=7, stride=4, layers=(0, -1), scales=(1.0, 0.5), debias=2, coordinates=0.5),
        SliceConfig(grid=4, enlarged=8),
    ],
)
def test_slices_are_encoded_there_in_batches(slices, devices):
    volume = liver_scan(1)
    close(*(TokenFeatures(backbone, slices)(volume, range(5)) for backbone in devices))
    learn = LearnConfig(rank=2, neighbours=3, channels=3)
    close(*(TrainableEncoder(backbone, learn, slices)(volume, range(5)) for backbone in devices))


def test_a_cpu_takes_slices_one_by_one_and_another_device_many():
    images = torch.zeros(40, 1, 8, 8)
    assert [len(part) for part in image_batches(images, torch.device("cpu"))] == [1] * 40
    assert [len(part) for part in image_batches(images, SECOND)] == [16, 16, 8]


def test_views_become_tokens_there(devices):
    view = View(np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8))
    images = [backbone.prepare_many([view.pixels]) for backbone in devices]
    close(*(b.tokens(image).patches.cpu() for b, image in zip(devices, images, strict=True)))
    close(*(b.attention(image).cpu() for b, image in zip(devices, images, strict=True)))
    assert tokenized_views(devices[1], [(view, None)], 32, 8) == []


class InlineExecutor:
    """Runs at once: the second device exists in the thread that opened it alone."""

    def __init__(self, *settings, **names):
        self._shutdown = False

    def submit(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future

    def shutdown(self, **settings):
        self._shutdown = True


def test_the_app_computes_there(devices, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("vetdino.serving.engine.model.ThreadPoolExecutor", InlineExecutor)
    written(tmp_path / "shards", 4)
    answers = []
    for device in ("cpu", "auto"):
        settings = AppConfig(
            shards=tmp_path / "shards", backbones=(folder, "random"), split="train", device=device
        )
        with open_app(settings) as engine:
            expected = "cpu" if device == "cpu" else SECOND.type
            assert [model.backbone.device.type for model in engine.models] == [expected] * 2
            answers.append(asyncio.run(engine.encoded("train-1", 0, "", 0)))
    close(answers[0].tokens, answers[1].tokens)
    close(answers[0].attention, answers[1].attention)
