"""One worker's training: it keeps the best epoch, resumes exactly, uses test once, and names what goes wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from vetdino.downstream.findings.finetune import finetune
from vetdino.downstream.findings.tuning import STATE, FinetuneTrainer
from vetdino.platform.core.errors import CheckpointError, TrainingError
from vetdino.platform.data.index import StudyIndex

pytestmark = pytest.mark.slow


def test_the_best_epoch_is_the_first_of_the_highest_validation_auroc(learnt):
    answers, out = learnt
    (result,) = (out / "finetune").glob("*/result.json")
    history = json.loads(result.read_text())["history"]
    values = [line["val_auroc"] for line in history]
    assert answers.facts["best_epoch"] == 1 + int(np.argmax(values))
    assert [line["epoch"] for line in history] == list(range(1, len(history) + 1))
    assert history[-1]["loss"] < history[0]["loss"]


@pytest.mark.parametrize("after", [1, 2])
def test_stopped_after_an_epoch_and_run_again_it_answers_as_if_never_stopped(
    short, source, folder, tmp_path, monkeypatch, after, quick
):
    train_epoch = FinetuneTrainer.train_epoch
    begun = []

    def stopped(trainer):
        begun.append(trainer.progress["epochs"])
        if trainer.progress["epochs"] == after:
            raise KeyboardInterrupt
        train_epoch(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(FinetuneTrainer, "train_epoch", stopped)
        with pytest.raises(KeyboardInterrupt):
            finetune(source, folder, quick, tmp_path)
    begun.clear()
    with monkeypatch.context() as patch:
        patch.setattr(FinetuneTrainer, "train_epoch", lambda trainer: (begun.append(0), train_epoch(trainer)))
        again = finetune(source, folder, quick, tmp_path)
    assert len(begun) == quick.epochs - after
    assert np.array_equal(again.scores, short.scores)
    untimed = lambda answers: {k: v for k, v in answers.facts.items() if k != "seconds"}
    assert untimed(again) == untimed(short)


def test_each_test_study_is_read_once_and_only_at_the_end(source, folder, tmp_path, monkeypatch, quick):
    loaded, load = [], StudyIndex.load

    def seen(index, row):
        loaded.append(index.key(row))
        return load(index, row)

    monkeypatch.setattr(StudyIndex, "load", seen)
    finetune(source, folder, replace(quick, epochs=2), tmp_path)
    assert sorted(loaded[-24:]) == sorted(f"test{number}" for number in range(24))
    assert not any(key.startswith("test") for key in loaded[:-24])
    assert len(loaded) == 2 * (48 + 16) + 24


def test_it_stops_when_validation_no_longer_improves(source, folder, tmp_path, quick):
    config = replace(
        quick, epochs=30, patience=2, lr=1e-30
    )  # nothing moves, so the first epoch stays the best
    facts = finetune(source, folder, config, tmp_path).facts
    assert (facts["epochs"], facts["best_epoch"]) == (3, 1)


def test_a_loss_that_is_no_number_stops_with_the_setting_to_change(source, folder, tmp_path, quick):
    config = replace(quick, lr=1e30, clip=1e30)
    with pytest.raises(TrainingError, match=r"epoch 1: .* lower finetune.lr \(1e\+30\)"):
        finetune(source, folder, config, tmp_path)


def test_a_damaged_state_is_named(source, folder, tmp_path, monkeypatch, quick):
    def stop(trainer):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FinetuneTrainer, "predict_test", stop)
        with pytest.raises(KeyboardInterrupt):
            finetune(source, folder, replace(quick, epochs=1), tmp_path)
    (state,) = tmp_path.glob(f"finetune/*/{STATE}")
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged; remove it, and the fine-tuning starts anew"):
        finetune(source, folder, replace(quick, epochs=1), tmp_path)
