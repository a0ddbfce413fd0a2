"""Fine-tuning learns, chooses on validation, answers test once, and does not mind a stop or more workers."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.optim import param_groups_layer_decay

from vetdino.downstream.common.sources import Sources
from vetdino.downstream.findings.finetune import STATE, FinetuneConfig, _with_val, finetune, labels_of
from vetdino.downstream.findings.tuning import (
    Network,
    Reader,
    augmented,
    groups_of,
    loss_of,
    order_of,
    rate_at,
    weights_of,
)
from vetdino.platform.core.config import to_json
from vetdino.platform.core.errors import CheckpointError, ConfigError, FeaturesError, TrainingError
from vetdino.platform.data.shards import VERSION, Manifest, ShardWriter, StudyIndex, save_manifest
from vetdino.platform.data.study import Study, View
from vetdino.platform.measure.metrics import auroc, figures_of
from vetdino.platform.models.backbone import BackboneConfig, letterboxed, random_backbone, save_backbone

ROOT = Path(__file__).resolve().parents[3]

COUNTS = {"train": 48, "val": 16, "test": 24}

QUICK = FinetuneConfig(
    epochs=3, batch=8, lr=3e-3, precision="float32", workers=0, threads=1, device="cpu", layer_decay=0.9
)


def study_of(split: str, number: int) -> Study:
    """Two or three views of noise. `square` shows in one of them, at random places; `dim` is known of few."""
    random = np.random.default_rng([number, len(split)])
    square = float(number % 3 == 0)
    views = [random.integers(0, 90, (32, 28)).astype(np.uint8) for _ in range(2 + number % 2)]
    if square:
        top, left = random.integers(2, 18, 2)
        views[random.integers(len(views))][top : top + 9, left : left + 9] += np.uint8(150)
    labels = {"square": square, "dim": float(number % 2) if number % 4 else math.nan, "never": 0.0}
    made = tuple(View(pixels, "VD") for pixels in views)
    return Study(f"{split}{number}", f"p{split}{number // 2}", made, labels, split)


def shards(folder: Path, counts: dict[str, int], findings=("square", "dim", "never")) -> Path:
    written = []
    for split, count in counts.items():
        with ShardWriter(folder, split) as writer:
            for number in range(count):
                writer.write(study_of(split, number))
        written += writer.shards
    save_manifest(folder, Manifest(VERSION, "squares", findings, tuple(written), {}, "c"))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return shards(tmp_path_factory.mktemp("shards"), COUNTS)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    small = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=32, depth=2, heads=2)
    folder = tmp_path_factory.mktemp("backbone")
    save_backbone(folder, random_backbone(small, seed=3))
    return folder


@pytest.fixture(scope="module")
def source(folder, weights):
    return Sources(folder, folder / "features").backbone("ours", weights)


@pytest.fixture(scope="module")
def learnt(source, folder, tmp_path_factory):
    """(answers, out) of one whole fine-tuning."""
    out = tmp_path_factory.mktemp("learnt")
    return finetune(source, folder, replace(QUICK, epochs=12), out), out


@pytest.fixture(scope="module")
def short(source, folder, tmp_path_factory):
    """Answers of three epochs, never stopped."""
    return finetune(source, folder, QUICK, tmp_path_factory.mktemp("short"))


def test_a_finding_that_shows_is_learnt_and_every_test_study_is_answered(learnt):
    answers, _ = learnt
    assert answers.findings == ("square", "dim")
    assert answers.scores.shape == answers.truth.shape == (24, 2)
    assert dict(zip(answers.findings, auroc(answers.truth, answers.scores), strict=True))["square"] > 0.9
    assert np.isnan(answers.truth[:, 1]).sum() == 6
    assert figures_of({"ours": answers}, n=50)[0].finding == "macro"


def test_a_finding_of_one_class_is_left_out_by_name(learnt):
    assert learnt[0].left_out == {"never": "0 present and 48 absent in train"}


def test_the_facts_tell_what_it_took(learnt):
    facts = learnt[0].facts
    assert 1 <= facts["best_epoch"] <= facts["epochs"] <= 12
    assert facts["chosen"] == "best macro AUROC on val"
    assert facts["val_auroc"] > 0.5
    assert facts["seconds"] > 0
    assert (facts["train_studies"], facts["test_studies"], facts["test_patients"]) == (48, 24, 12)
    assert facts["workers"] == 1
    # Of the backbone all but its mask token, which nothing looks at here, and two findings' heads.
    whole = random_backbone(
        BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=32, depth=2, heads=2), 0
    )
    assert facts["trainable"] == sum(p.numel() for p in whole.parameters()) - 32 + 2 * 33


def test_the_best_epoch_is_the_first_of_the_highest_validation_auroc(learnt):
    answers, out = learnt
    (result,) = (out / "finetune").glob("*/result.json")
    told = json.loads(result.read_text())["history"]
    values = [line["val_auroc"] for line in told]
    assert answers.facts["best_epoch"] == 1 + int(np.argmax(values))
    assert [line["epoch"] for line in told] == list(range(1, len(told) + 1))
    assert told[-1]["loss"] < told[0]["loss"]


def test_finished_it_answers_at_once_and_leaves_only_its_result(learnt, source, folder):
    answers, out = learnt
    (place,) = (out / "finetune").iterdir()
    assert [path.name for path in place.iterdir()] == ["result.json"]
    written = (place / "result.json").stat().st_mtime_ns
    # Where it trains does not count for what it answers.
    again = finetune(source, folder, replace(QUICK, epochs=12, threads=2, device="auto"), out)
    assert np.array_equal(again.scores, answers.scores)
    assert again.facts == answers.facts
    assert (place / "result.json").stat().st_mtime_ns == written


def test_other_settings_backbones_and_shards_have_folders_of_their_own(source, folder, tmp_path):
    once = replace(QUICK, epochs=1)
    other = shards(tmp_path / "shards", COUNTS | {"train": 40})
    twin = Sources(folder, folder / "features").random("ours", source, seed=1)
    asked = [(source, folder, once), (twin, folder, once), (source, other, once)]
    asked.append((source, folder, replace(once, seed=1)))
    scores = [finetune(*one, tmp_path / "out").scores for one in asked]
    assert len(list((tmp_path / "out" / "finetune").iterdir())) == 4
    assert not any(np.array_equal(scores[0], other) for other in scores[1:])


@pytest.mark.parametrize("after", [1, 2])
def test_stopped_after_an_epoch_and_run_again_it_answers_as_if_never_stopped(
    short, source, folder, tmp_path, monkeypatch, after
):
    from vetdino.downstream.findings import tuning

    learn = tuning._Training.learn
    begun = []

    def stopped(training):
        begun.append(training.told["epochs"])
        if training.told["epochs"] == after:
            raise KeyboardInterrupt
        learn(training)

    with monkeypatch.context() as patch:
        patch.setattr(tuning._Training, "learn", stopped)
        with pytest.raises(KeyboardInterrupt):
            finetune(source, folder, QUICK, tmp_path)
    begun.clear()
    with monkeypatch.context() as patch:
        patch.setattr(tuning._Training, "learn", lambda training: (begun.append(0), learn(training)))
        again = finetune(source, folder, QUICK, tmp_path)
    assert len(begun) == QUICK.epochs - after
    assert np.array_equal(again.scores, short.scores)
    untimed = lambda answers: {k: v for k, v in answers.facts.items() if k != "seconds"}
    assert untimed(again) == untimed(short)


def test_each_test_study_is_read_once_and_only_at_the_end(source, folder, tmp_path, monkeypatch):
    loaded, load = [], StudyIndex.load

    def seen(index, row):
        loaded.append(index.keys()[row])
        return load(index, row)

    monkeypatch.setattr(StudyIndex, "load", seen)
    finetune(source, folder, replace(QUICK, epochs=2), tmp_path)
    assert sorted(loaded[-24:]) == sorted(f"test{number}" for number in range(24))
    assert not any(key.startswith("test") for key in loaded[:-24])
    assert len(loaded) == 2 * (48 + 16) + 24


def test_it_stops_when_validation_no_longer_improves(source, folder, tmp_path):
    config = replace(
        QUICK, epochs=30, patience=2, lr=1e-30
    )  # nothing moves, so the first epoch stays the best
    facts = finetune(source, folder, config, tmp_path).facts
    assert (facts["epochs"], facts["best_epoch"]) == (3, 1)


def test_without_a_validation_split_a_fifth_of_the_training_patients_chooses(source, tmp_path):
    only = shards(tmp_path / "shards", {"train": 40, "test": 20})
    parts = labels_of(only, QUICK)
    assert len(set(parts.val.patients)) == 4
    assert not set(parts.val.patients) & set(parts.train.patients)
    assert len(parts.train) + len(parts.val) == 40
    facts = finetune(source, only, replace(QUICK, epochs=1), tmp_path).facts
    assert facts["chosen"] == "best macro AUROC on a fifth of the training patients"


def test_one_training_patient_is_not_divided_and_the_last_epoch_answers(source, tmp_path):
    only = shards(tmp_path / "shards", {"train": 2, "test": 20})
    parts = labels_of(only, QUICK)
    assert len(parts.val) == 0
    assert set(parts.left_out) == {"dim", "never"}
    facts = finetune(source, only, replace(QUICK, epochs=2), tmp_path).facts
    assert facts["best_epoch"] == facts["epochs"] == 2
    assert facts["chosen"].startswith("the last epoch")
    assert "val_auroc" not in facts


def test_a_given_validation_split_stays_as_it_is(folder):
    parts = labels_of(folder, QUICK)
    assert len(parts.val) == 16
    assert _with_val(parts.test, 0) is parts.test


def test_a_smaller_fraction_learns_from_patients_of_a_larger_one(folder):
    some, more = (labels_of(folder, replace(QUICK, fraction=share)) for share in (0.25, 0.5))
    assert len(set(some.train.patients)) == 6
    assert len(set(more.train.patients)) == 12
    assert set(some.train.patients) < set(more.train.patients)
    assert len(some.test) == 24


def test_studies_of_which_nothing_is_known_do_not_teach(tmp_path):
    only = shards(tmp_path / "shards", COUNTS, findings=("dim",))
    parts = labels_of(only, QUICK)
    assert len(parts.train) == 36
    assert not np.isnan(parts.train.labels).any()


def test_a_source_without_a_backbone_is_refused_by_name(folder, tmp_path):
    floor = Sources(folder, tmp_path).pixels()
    with pytest.raises(ConfigError, match="pixels has no backbone to fine-tune; leave it out"):
        finetune(floor, folder, QUICK, tmp_path)


def test_where_no_finding_can_be_measured_nothing_is_trained(source, tmp_path):
    only = shards(tmp_path / "shards", {"train": 8, "test": 8}, findings=("never",))
    answers = finetune(source, only, QUICK, tmp_path / "out")
    assert answers.findings == ()
    assert answers.left_out == {"never": "0 present and 6 absent in train"}
    assert not (tmp_path / "out").exists()


def test_an_empty_split_is_refused(source, tmp_path):
    with pytest.raises(FeaturesError, match="no studies in the test split"):
        finetune(source, shards(tmp_path / "a", {"train": 6}), QUICK, tmp_path)
    with pytest.raises(FeaturesError, match="no studies in the train split"):
        finetune(source, shards(tmp_path / "b", {"test": 6}), QUICK, tmp_path)


def test_a_loss_that_is_no_number_stops_with_the_setting_to_change(source, folder, tmp_path):
    config = replace(QUICK, lr=1e30, clip=1e30)
    with pytest.raises(TrainingError, match=r"epoch 1: .* lower finetune.lr \(1e\+30\)"):
        finetune(source, folder, config, tmp_path)


def test_a_damaged_state_is_named(source, folder, tmp_path, monkeypatch):
    from vetdino.downstream.findings import tuning

    def stop(training):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tuning._Training, "answer", stop)
        with pytest.raises(KeyboardInterrupt):
            finetune(source, folder, replace(QUICK, epochs=1), tmp_path)
    (state,) = tmp_path.glob(f"finetune/*/{STATE}")
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged; remove it, and the fine-tuning starts anew"):
        finetune(source, folder, replace(QUICK, epochs=1), tmp_path)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"epochs": 0}, "finetune.epochs 0 must be at least 1"),
        ({"fraction": 0.0}, "finetune.fraction 0.0 must be above 0"),
        ({"fraction": 1.5}, "finetune.fraction 1.5 must lie between 0 and 1"),
        ({"lr": math.nan}, "finetune.lr nan must be above 0"),
        ({"drop_path": 1.0}, "drop_path 1 would leave nothing"),
        ({"seed": -1}, "finetune.seed -1 must not be below 0"),
        ({"batch": 2, "workers": 3}, "finetune.batch 2 leaves some of finetune.workers 3 without a study"),
    ],
)
def test_a_setting_that_cannot_be_obeyed_is_named(wrong, said):
    with pytest.raises(ConfigError, match=said):
        replace(QUICK, **wrong).check()


def test_more_workers_than_studies_are_refused_before_ray_starts(source, folder, tmp_path):
    config = replace(QUICK, fraction=0.04, batch=8, workers=8)
    with pytest.raises(ConfigError, match=r"finetune\.workers 8 are more than the 2 training studies"):
        finetune(source, folder, config, tmp_path)


def test_learning_rates_by_layer_are_those_of_timm(source):
    network = Network(source.backbone, 2, QUICK)
    ours = {
        id(parameter): (group["factor"], group["weight_decay"])
        for group in groups_of(network, replace(QUICK, layer_decay=0.75))
        for parameter in group["params"]
    }
    assert len(ours) == sum(p.requires_grad for p in network.parameters())
    vit = network.backbone.vit
    plain = list(vit.no_weight_decay())
    for group in param_groups_layer_decay(vit, 0.05, no_weight_decay_list=plain, layer_decay=0.75):
        for parameter in group["params"]:
            # timm's last block learns as fast as the norm after it, MAE's one step slower.
            later = 1.0 if parameter in set(vit.norm.parameters()) else 0.75
            expected = (group["lr_scale"] * later, group["weight_decay"])
            assert ours[id(parameter)] == pytest.approx(expected)
    assert ours[id(network.head.weight)] == (1.0, 0.05)
    assert ours[id(vit.pos_embed)][0] == pytest.approx(0.75**3)


def test_the_learning_rate_rises_then_falls_to_nearly_nothing():
    config = replace(QUICK, lr=2.0, warmup=0.25)
    rates = [rate_at(step, 40, config) for step in range(40)]
    assert max(rates) == rates[9] == rates[10] == 2.0
    assert rates[0] == pytest.approx(0.2)
    assert rates[-1] < 0.02
    assert np.all(np.diff(rates[10:]) < 0)
    assert rate_at(0, 1, replace(config, warmup=1.0)) == 2.0


def test_the_loss_is_a_loop_over_known_labels():
    random = np.random.default_rng(0)
    logits = random.normal(size=(5, 3)) * 4
    labels = (random.random((5, 3)) < 0.5).astype(float)
    labels[1, 0] = labels[3, 2] = math.nan
    weight = np.array([2.0, 1.0, 0.5])
    expected = 0.0
    for b in range(5):
        for f in range(3):
            chance = 1 / (1 + math.exp(-logits[b, f]))
            if labels[b, f] == 1:
                expected -= weight[f] * math.log(chance)
            elif labels[b, f] == 0:
                expected -= math.log(1 - chance)
    given = torch.tensor(logits, requires_grad=True)
    loss = loss_of(given, torch.tensor(labels), torch.tensor(weight))
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    loss.backward()
    assert ((given.grad == 0).numpy() == np.isnan(labels)).all()


def test_a_rare_finding_weighs_more_up_to_the_limit():
    labels = np.array([[1.0, 1], [0, 0], [0, 0], [0, math.nan]])
    assert weights_of(labels, 10).tolist() == [3, 2]
    assert weights_of(labels, 2.5).tolist() == [2.5, 2]
    assert weights_of(labels, 1).tolist() == [1, 1]


@pytest.mark.parametrize("pool", ["cls", "cls+mean"])
def test_a_study_is_the_mean_of_its_views(source, folder, pool):
    network = Network(source.backbone, 2, replace(QUICK, pool=pool)).eval()
    torch.nn.init.normal_(network.head.weight)
    random = np.random.default_rng(0)
    images = torch.tensor(random.integers(0, 255, (5, 32, 32), dtype=np.uint8))
    with torch.no_grad():
        found = network(images, torch.tensor([2, 3]))
    tokens = source.backbone.tokens(source.backbone.prepare_many(list(images.numpy())))
    vectors = [tokens.cls[v] for v in range(5)]
    if pool == "cls+mean":
        vectors = [torch.cat([tokens.cls[v], tokens.patches[v].mean(0)]) for v in range(5)]
    for study, views in enumerate([(0, 1), (2, 3, 4)]):
        mean = sum(vectors[view] for view in views) / len(views)
        assert torch.allclose(found[study], network.head.weight @ mean, atol=1e-5)


def test_stochastic_depth_follows_the_view_and_not_its_batch(source):
    network = Network(source.backbone, 2, replace(QUICK, drop_path=0.5))
    torch.nn.init.normal_(network.head.weight)
    random = np.random.default_rng(0)
    images = torch.tensor(random.integers(0, 255, (6, 32, 32), dtype=np.uint8))
    chances = torch.tensor(random.random((6, 2, 2), np.float32))
    counts = torch.tensor([2, 1, 3])
    with torch.no_grad():
        whole = network(images, counts, chances)
        apart = [network(images[:2], counts[:1], chances[:2]), network(images[2:], counts[1:], chances[2:])]
        kept = network(images, counts, torch.ones_like(chances))
        undropped = network(images, counts)
    assert torch.allclose(whole, torch.cat(apart), atol=1e-5)
    assert not torch.allclose(whole, undropped, atol=1e-2)
    assert not torch.allclose(kept, undropped, atol=1e-2)  # what is kept stands for what is dropped
    assert torch.allclose(network(images, counts), undropped)


def test_stochastic_depth_keeps_the_mean(source):
    network = Network(source.backbone, 2, replace(QUICK, drop_path=0.3))
    block = network.backbone.vit.blocks[1]
    chances = torch.rand((20_000, 2, 2), generator=torch.Generator().manual_seed(0))
    network._drop(chances)
    factor = block.drop_path1(torch.ones(20_000, 1, 1))
    assert sorted(set(factor.flatten().tolist())) == pytest.approx([0, 1 / 0.7])
    assert factor.mean().item() == pytest.approx(1, abs=0.02)
    assert network.backbone.vit.blocks[0].drop_path1(torch.ones(20_000, 1, 1)).eq(1).all()


def test_a_new_network_says_nothing_yet_and_leaves_the_source_alone(source):
    before = {name: value.clone() for name, value in source.backbone.state_dict().items()}
    network = Network(source.backbone, 3, QUICK)
    images = torch.zeros(2, 32, 32, dtype=torch.uint8)
    network(images, torch.tensor([1, 1])).sum().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert all(value.equal(before[name]) for name, value in source.backbone.state_dict().items())
    assert network.head.bias.tolist() == [1, 1, 1]  # zero before


def test_an_epoch_shows_each_study_once_and_epochs_differ():
    steps = order_of(10, 4, seed=0, epoch=0)
    rows = np.concatenate(steps)
    assert len(set(rows)) == len(rows) == 8
    assert not np.array_equal(rows, np.concatenate(order_of(10, 4, seed=0, epoch=1)))
    assert not np.array_equal(rows, np.concatenate(order_of(10, 4, seed=1, epoch=0)))


def test_without_augmentation_a_view_is_letterboxed_as_the_backbone_does():
    view = np.random.default_rng(0).integers(0, 255, (40, 28), dtype=np.uint8)
    plain = replace(QUICK, crop=1.0, rotation=0.0, flip=0.0, intensity=0.0)
    random = np.random.default_rng(1)
    assert np.array_equal(augmented(view, 32, plain, random), letterboxed(view, 32))
    mirrored = augmented(view, 32, replace(plain, flip=1.0), random)
    assert np.array_equal(mirrored, letterboxed(view, 32)[:, ::-1])


def test_an_augmented_view_is_much_like_it_was_and_black_stays_black():
    rows, columns = np.mgrid[:60, :60]
    view = (100 + 60 * np.sin(rows / 9) + 40 * np.cos(columns / 7)).astype(np.uint8)
    mild = replace(QUICK, crop=0.9, rotation=5.0, flip=0.0)
    seen = [augmented(view, 32, mild, np.random.default_rng(seed)) for seed in range(20)]
    plain = letterboxed(view, 32).astype(float)
    middle = slice(6, -6)
    for picture in seen:
        assert picture.dtype == np.uint8
        assert np.corrcoef(picture[middle, middle].ravel(), plain[middle, middle].ravel())[0, 1] > 0.7
    assert len({picture.tobytes() for picture in seen}) == 20
    black = augmented(np.zeros((20, 30), np.uint8), 32, QUICK, np.random.default_rng(0))
    assert not black.any()


def test_what_is_drawn_for_a_study_follows_from_seed_epoch_and_key_alone(folder):
    reader = Reader(str(folder), QUICK, side=32, depth=2)
    alone = next(reader.batches([["train5"]], epoch=4))
    (_, second) = reader.batches([["train1", "train2"], ["train5", "train3"]], epoch=4)
    views = len(alone.images)
    assert np.array_equal(second.images[:views], alone.images)
    assert np.array_equal(second.chances[:views], alone.chances)
    assert second.counts.tolist() == [3, 3]
    for other in (
        next(reader.batches([["train5"]], epoch=5)),
        next(Reader(str(folder), replace(QUICK, seed=1), 32, 2).batches([["train5"]], epoch=4)),
    ):
        assert not np.array_equal(other.images, alone.images)
        assert not np.array_equal(other.chances, alone.chances)
    plain = next(reader.batches([["train5"]]))
    assert plain.chances is None
    assert np.array_equal(
        plain.images[0], letterboxed(StudyIndex(folder, "train").load(5).view(0).pixels, 32)
    )


RAY = """
import sys
from pathlib import Path
from vetdino.downstream.finetune import FinetuneConfig, finetune
from vetdino.downstream.sources import Sources
from vetdino.platform.config import from_json

shards, weights = sys.argv[1:]
source = Sources(shards, Path("features")).backbone("ours", weights)
finetune(source, shards, from_json(FinetuneConfig, Path("config.json").read_text()), Path("out"))
"""


def test_two_ray_workers_answer_as_one_process_does(short, folder, weights, tmp_path):
    config = replace(QUICK, workers=2)
    (tmp_path / "config.json").write_text(to_json(config))
    done = subprocess.run(
        [sys.executable, "-c", RAY, str(folder), str(weights)],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,  # Ray takes its time on a machine that is busy with other work
    )
    assert done.returncode == 0, done.stderr[-3000:]
    source = Sources(folder, tmp_path / "features").backbone("ours", weights)
    together = finetune(source, folder, config, tmp_path / "out")  # answers at once
    assert together.facts["workers"] == 2
    assert together.facts["best_epoch"] == short.facts["best_epoch"]
    assert together.scores == pytest.approx(short.scores, abs=1e-5)
    assert np.ptp(short.scores) > 0.1
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert lines[-1]["finished"]
    assert [path.name for path in (tmp_path / "out" / "finetune").glob("*/*")] == ["result.json"]
