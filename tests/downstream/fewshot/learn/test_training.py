"""Episode training: it learns, it can be broken off, and no encoder sees what it will be asked about."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vetdino.downstream.fewshot.learn import training
from vetdino.downstream.fewshot.learn.config import EpisodeConfig, LearnConfig, TrainConfig
from vetdino.downstream.fewshot.learn.episodes import Episodes, Shelf
from vetdino.downstream.fewshot.learn.learnable import WEIGHTS, Learnable
from vetdino.downstream.fewshot.learn.training import (
    ENCODERS,
    STATE,
    groups_of,
    jobs_of,
    losses_of,
    step,
    train,
    trained_of,
)
from vetdino.downstream.fewshot.method.config import PrototypeConfig, SliceConfig
from vetdino.downstream.fewshot.method.protocol import folds_of
from vetdino.downstream.volumes.volume import Volume
from vetdino.platform.core.errors import CheckpointError, ConfigError, DataError, TrainingError
from vetdino.platform.core.run_folder import history
from vetdino.platform.models.backbone import random_like

PROTOTYPES = PrototypeConfig(training_window=2)
QUICK = TrainConfig(
    slices=SliceConfig(grid=8),
    episodes=EpisodeConfig(min_size=40, shift=2.0),
    prototypes=PROTOTYPES,
    groups=("liver",),
    folds=2,
    steps=7,
    record_every=3,
    lr=0.01,
    device="cpu",
)


def scan(number: int) -> Volume:
    """A speckled body on black, a liver in slices 1 to 3 of five."""
    random = np.random.default_rng(number)
    z, y, x = np.mgrid[:5, :64, :64]
    labels = ((np.hypot(y - 26, x - 24) < 9) & (z > 0) & (z < 4)).astype(np.uint8)
    image = (np.hypot(y - 32, x - 32) < 26) * (80 + 70.0 * labels + random.normal(0, 12, z.shape))
    image = np.clip(image.round(), 0, 255).astype(np.float32)
    return Volume(str(number), image, labels, (5.0, 1.5, 1.5), "mri", None)


class Held:
    """Scans in memory that are read as a prepared folder is; number 9 has no labels."""

    folder = Path("held")
    digest = "d" * 64

    def __init__(self, count: int = 4, classes: dict[int, str] | None = None) -> None:
        self.classes = classes or {1: "liver"}
        self.names = (*map(str, range(count)), "9")
        self.cards = {name: {"labelled": name != "9"} for name in self.names}

    def load(self, name: str) -> Volume:
        volume = scan(int(name))
        return volume if self.cards[name]["labelled"] else replace(volume, labels_ZHW=None)

    def __len__(self) -> int:
        return len(self.names)


@pytest.fixture(autouse=True)
def without_tracking(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://")


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "nowhere://")
        return train(Held(), tiny, QUICK, tmp_path_factory.mktemp("whole") / "out")


def learnt(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(out.glob(f"*/{WEIGHTS}"))}


# A step ------------------------------------------------------------------------------------------


def episode_of(number: int = 0, neighbours: int = 0):
    return Episodes(Shelf(Held(), QUICK.episodes), ("0", "1"), (0,), neighbours=neighbours)[number]


@pytest.mark.parametrize("learn", [LearnConfig(), LearnConfig(neighbours=3)])
def test_the_loss_falls_on_one_repeated_episode(tiny, learn):
    learnable = Learnable(tiny, learn, QUICK.slices)
    episode = episode_of(neighbours=learn.neighbours)
    sgd = torch.optim.SGD(learnable.trainable(), 0.02, momentum=0.9)
    told = []
    for _ in range(20):
        loss = step(learnable, episode.support, episode.query, PROTOTYPES)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        told.append(loss.item())
    assert told[-1] < 0.8 * told[0]


def test_a_steps_loss_is_segmentation_and_alignment(tiny):
    episode = episode_of(3)
    losses = losses_of(Learnable(tiny, slices=QUICK.slices), episode.support, episode.query, PROTOTYPES)
    assert losses.segmentation > 0
    assert losses.alignment > 0
    both = step(Learnable(tiny, slices=QUICK.slices), episode.support, episode.query, PROTOTYPES)
    assert torch.equal(both, losses.segmentation + losses.alignment)


def test_support_and_query_do_not_change_places_for_nothing(tiny):
    episode, learnable = episode_of(3), Learnable(tiny, slices=QUICK.slices)
    there = losses_of(learnable, episode.support, episode.query, PROTOTYPES)
    back = losses_of(learnable, episode.query, episode.support, PROTOTYPES)
    assert not torch.equal(there.segmentation, back.segmentation)


# Which encoders ----------------------------------------------------------------------------------


def test_an_encoder_never_sees_the_scans_that_its_fold_asks_about():
    volumes = Held(6, {1: "liver", 2: "spleen"})
    config = TrainConfig(folds=3, groups=("liver+2",))
    labelled = [name for name in volumes.names if name != "9"]
    jobs = jobs_of(volumes, config)
    assert [job.fold for job in jobs] == [0, 1, 2]
    for job, fold in zip(jobs, folds_of(labelled, 3), strict=True):
        assert not set(job.scans) & {*fold.queries, *fold.supports}
        assert {*job.scans, *fold.queries, *fold.supports} == set(volumes.names)
        assert job.never == job.organs == (1, 2)


def test_setting_1_has_one_encoder_a_fold_and_shuns_no_slice():
    jobs = jobs_of(Held(6, {1: "liver", 2: "spleen"}), TrainConfig(folds=3, setting="I"))
    assert [(job.fold, job.organs, job.never) for job in jobs] == [(fold, (1, 2), ()) for fold in range(3)]


def test_left_and_right_of_a_kind_are_one_group_if_none_is_named():
    classes = {1: "liver", 2: "right kidney", 3: "Left kidney", 4: "spleen"}
    assert groups_of(classes) == [(1,), (2, 3), (4,)]
    assert groups_of(classes, ("liver+spleen", "2 + left kidney")) == [(1, 4), (2, 3)]
    with pytest.raises(ConfigError, match="no organ 'spleem'; the nearest is 'spleen'"):
        groups_of(classes, ("spleem",))
    with pytest.raises(ConfigError, match="liver is in two"):
        groups_of(classes, ("liver", "1+spleen"))


# A training --------------------------------------------------------------------------------------


def test_a_training_leaves_encoders_that_answer_for_fold_and_organ(tiny, undisturbed):
    encoders = trained_of(undisturbed, tiny, volumes=Held(), folds=2)
    assert encoders.keys() == {(0, 1), (1, 1)}
    features = [encoders[fold, 1](scan(0), [2]) for fold in (0, 1)]
    start = Learnable(tiny, slices=QUICK.slices)(scan(0), [2])
    assert not torch.allclose(features[0], start, atol=1e-4)
    assert not torch.allclose(features[0], features[1], atol=1e-4)
    told = json.loads((undisturbed / ENCODERS).read_text())
    assert told["data"] == Held.digest
    assert [one["fold"] for one in told["encoders"]] == [0, 1]


def test_trained_encoders_go_where_they_are_asked_for_and_the_backbone_stays(tiny, undisturbed):
    before = {name: value.device for name, value in tiny.named_parameters()}
    # No GPU is needed for it: nothing computes on this device.
    encoders = trained_of(undisturbed, tiny, device=torch.device("meta"))
    assert all(weight.is_meta for one in encoders.values() for weight in one.parameters())
    assert {name: value.device for name, value in tiny.named_parameters()} == before


def test_a_training_leaves_its_record(undisturbed):
    lines = history(undisturbed)
    assert [line["step"] for line in lines] == [3, 6, 7]
    for name in ("loss", "segmentation", "alignment", "lr", "seconds a step"):
        assert np.isfinite([line[f"fold_1_organs_1/{name}"] for line in lines]).all()
    with (undisturbed / "encoders.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["fold"], row["organs"], row["steps"]) for row in rows] == [
        ("0", "liver", "7"),
        ("1", "liver", "7"),
    ]
    # Of 5 slices 2 are without a liver; the scan that nobody labelled is not drawn from.
    assert {row["slices"] for row in rows} == {"2"}


@pytest.mark.parametrize("at", [0, 2, 4, 7, 11])
def test_broken_off_anywhere_and_run_again_it_ends_the_same_bit_for_bit(
    tiny, undisturbed, tmp_path, monkeypatch, at
):
    calls = iter(range(1000))

    def broken(*arguments):
        if next(calls) == at:
            raise KeyboardInterrupt
        return losses_of(*arguments)

    monkeypatch.setattr(training, "losses_of", broken)
    with pytest.raises(KeyboardInterrupt):
        train(Held(), tiny, QUICK, tmp_path / "out")
    with pytest.raises(CheckpointError, match="run it again"):
        trained_of(tmp_path / "out", tiny)
    train(Held(), tiny, QUICK, tmp_path / "out")
    assert learnt(tmp_path / "out") == learnt(undisturbed)
    first, second = history(tmp_path / "out"), history(undisturbed)
    for one, other in zip(first, second, strict=True):
        kept = [name for name in one if name != "time" and not name.endswith("seconds a step")]
        assert [one[name] for name in kept] == [other[name] for name in kept]


def test_a_finished_training_is_not_done_again(tiny, undisturbed, monkeypatch):
    before = learnt(undisturbed)
    monkeypatch.setattr(training, "losses_of", lambda *_: pytest.fail("a step was taken"))
    train(Held(), tiny, QUICK, undisturbed)
    assert learnt(undisturbed) == before


def test_a_folder_of_something_else_is_refused_before_anything_is_trained(tiny, undisturbed, tmp_path):
    other = replace(QUICK, lr=0.02)
    with pytest.raises(DataError, match="a training with other settings is there"):
        train(Held(), tiny, other, undisturbed)
    with pytest.raises(DataError, match="other backbone"):
        train(Held(), random_like(tiny, 4), QUICK, undisturbed)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match=r"thesis\.txt, which no training left"):
        train(Held(), tiny, QUICK, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_encoders_are_asked_about_their_own_scans_folds_and_backbone(tiny, undisturbed):
    with pytest.raises(DataError, match="trained for 2 folds, 3 are asked for"):
        trained_of(undisturbed, tiny, folds=3)
    foreign = Held()
    foreign.digest = "e" * 64
    with pytest.raises(DataError, match="other scans than held"):
        trained_of(undisturbed, tiny, volumes=foreign)
    with pytest.raises(CheckpointError, match="give that backbone"):
        trained_of(undisturbed, random_like(tiny, 4))


def test_a_damaged_state_is_told_with_its_file(tiny, tmp_path, undisturbed):
    import shutil

    shutil.copytree(undisturbed, tmp_path / "out")
    state = tmp_path / "out" / "fold_0_organs_1" / STATE
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=f"{STATE}: damaged"):
        train(Held(), tiny, QUICK, tmp_path / "out")


def test_a_loss_that_is_no_number_stops_with_the_slice_that_gave_it(tiny, tmp_path):
    wild = replace(QUICK, lr=1e30)
    with pytest.raises(TrainingError, match=r"step \d+, scan \d, slice \d.*lower --lr"):
        train(Held(), tiny, wild, tmp_path / "out")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("steps", 0), ("lr", 0.0), ("momentum", 1.0), ("decay", 0.0), ("record_every", 0), ("seed", -1)],
)
def test_settings_that_cannot_be_are_refused(setting, value):
    with pytest.raises(ConfigError, match=setting):
        TrainConfig(**{setting: value})
