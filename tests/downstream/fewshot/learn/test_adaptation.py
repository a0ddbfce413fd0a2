"""Training on the slice that is asked: what it changes, and that nothing of it is left afterwards."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vetdino.downstream.fewshot.learn.adaptation import (
    Adapted,
    course_of,
    drift_of,
    restored,
    trained_on,
    weights_of,
)
from vetdino.downstream.fewshot.learn.config import AdaptConfig, EpisodeConfig, LearnConfig
from vetdino.downstream.fewshot.learn.learnable import Learnable
from vetdino.downstream.fewshot.method.answers import Lesson, by_prototypes, lesson_of
from vetdino.downstream.fewshot.method.config import PrototypeConfig, SliceConfig
from vetdino.downstream.fewshot.method.prototypes import on_image, predict
from vetdino.downstream.volumes.volume import Volume
from vetdino.platform.core.errors import ConfigError, TrainingError

PROTOTYPES = PrototypeConfig(training_window=2)
FEW = AdaptConfig(steps=3, rate=0.05, looks=EpisodeConfig(shift=2.0, elastic_alpha=2.0))


def scan(seed: int = 0) -> Volume:
    """A grey body with a bright organ, each scan a bit moved."""
    random = np.random.default_rng(seed)
    z, y, x = np.mgrid[:6, :32, :32]
    up, left = random.uniform(-1, 1, 2)
    labels = ((np.hypot(y - 13 - up, x - 12 - left) < 6) & (z > 0)).astype(np.uint8)
    body = np.hypot(y - 16, x - 16) < 15
    image = body * (60 + 90.0 * labels) + random.normal(0, 4, z.shape)
    return Volume(f"s{seed}", np.clip(image, 0, 255).astype(np.float32), labels, (5.0, 1.5, 1.5), "mri", None)


@pytest.fixture
def learnable(tiny) -> Learnable:
    return Learnable(tiny, LearnConfig(neighbours=3), SliceConfig(grid=8), seed=1)


@pytest.fixture
def lesson() -> Lesson:
    return lesson_of(1, "liver", [scan(0)])


def adapted(learnable: Learnable, config: AdaptConfig = FEW) -> Adapted:
    return Adapted(lambda _: learnable, config, PROTOTYPES)


def state_of(module: torch.nn.Module) -> dict[str, object]:
    """Everything a step could leave behind, as bytes: weights, buffers, gradients, modes, flags."""
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    told = {name: value.detach().numpy().tobytes() for name, value in tensors.items()}
    told |= {
        f"{name}.grad": None if value.grad is None else value.grad.numpy().tobytes()
        for name, value in tensors.items()
    }
    told |= {f"{name}.asks": value.requires_grad for name, value in tensors.items()}
    told |= {f"{name}.mode": one.training for name, one in module.named_modules()}
    return told


def test_after_every_slice_the_encoder_is_what_it_was_bit_for_bit(learnable, lesson, tiny):
    before, shared = state_of(learnable), state_of(tiny)
    random = torch.get_rng_state()
    answer = adapted(learnable)
    answer(lesson, 1, scan(1), [2, 3])
    assert [report.steps for report in answer.reports] == [3, 3]
    assert all(report.drift > 0 for report in answer.reports)
    assert state_of(learnable) == before
    assert state_of(tiny) == shared
    assert torch.equal(torch.get_rng_state(), random)


def test_gradients_that_were_there_before_are_there_again(learnable, lesson):
    for weight in learnable.trainable():
        weight.grad = torch.full_like(weight, 0.5)
    before = state_of(learnable)
    adapted(learnable)(lesson, 1, scan(1), [3])
    assert state_of(learnable) == before


class _Stops(Learnable):
    """An encoder in whose `left`-th look something happens."""

    left = 8
    error: type[BaseException] = KeyboardInterrupt

    def tokens(self, images_nKST: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if not self.left:
            raise self.error("in the middle of a training")
        return super().tokens(images_nKST)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_training_that_is_broken_off_leaves_nothing_either(tiny, lesson, error):
    stops = _Stops(tiny, LearnConfig(), SliceConfig(grid=8), seed=1)
    stops.error = error
    before = state_of(stops)
    with pytest.raises(error, match="in the middle"):
        adapted(stops)(lesson, 1, scan(1), [2, 3, 4])
    assert stops.left == 0
    assert state_of(stops) == before


def test_the_reset_holds_copies_of_weights_buffers_gradients_and_modes():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    before = state_of(module)

    def change() -> None:
        with restored(module):
            module.train(False)
            module.train()[1].eval()
            module[0](torch.ones(4, 2)).sum().backward()
            module[0].weight.requires_grad_(False).add_(1.0)
            module[1].running_mean.add_(2.0)
            assert state_of(module) != before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change()
    assert state_of(module) == before


def test_answers_do_not_depend_on_the_order_of_slices_or_scans(learnable, lesson):
    one, two = scan(1), scan(2)
    answer = adapted(learnable)
    forth = {(query.name, z): answer(lesson, 1, query, [z])[0] for query in (one, two) for z in (2, 3)}
    back = {(query.name, z): answer(lesson, 1, query, [z])[0] for query in (two, one) for z in (3, 2)}
    together = adapted(learnable)(lesson, 1, two, [3, 2])
    assert all(torch.equal(forth[key], back[key]) for key in forth)
    assert torch.equal(together[1], forth["s2", 2])


def test_without_the_reset_order_does_matter(learnable, lesson):
    def last(order: list[int]) -> dict[int, torch.Tensor]:
        with restored(learnable):
            courses = {
                z: course_of(learnable, lesson, 1, scan(1), z, FEW, PROTOTYPES, marks=(3,)) for z in order
            }
        return {z: course.ahead[3] for z, course in courses.items()}

    forth, back = last([2, 3]), last([3, 2])
    assert not torch.equal(forth[2], back[2])
    assert torch.equal(forth[2], last([2])[2])


def test_the_second_prediction_is_taught_by_the_true_support(learnable, lesson):
    query, support = scan(1), lesson.supports[0]
    found = adapted(learnable)(lesson, 1, query, [3])[0]
    z = lesson.places[0][1]
    with restored(learnable):
        label = (by_prototypes(learnable, PROTOTYPES)(lesson, 1, query, [3])[0] > 0).numpy()
        assert label.any()
        for _ in trained_on(learnable, 1, query, 3, label, FEW, PROTOTYPES):
            pass
        mask = torch.from_numpy(support.labels_ZHW[[z]] == 1)
        logits, _ = predict(learnable(query, [3])[0], learnable(support, [z]), mask, PROTOTYPES)
    back, front = on_image(logits, 32, 32)
    torch.testing.assert_close(found, front - back, atol=1e-4, rtol=1e-4)
    untrained = by_prototypes(learnable, PROTOTYPES)(lesson, 1, query, [3])[0]
    assert float((found - untrained).abs().max()) > 1e-2


def test_no_steps_are_the_plain_answer(learnable, lesson):
    answer = adapted(learnable, AdaptConfig())
    plain = by_prototypes(learnable, PROTOTYPES)
    torch.testing.assert_close(answer(lesson, 0, scan(1), [1, 2]), plain(lesson, 0, scan(1), [1, 2]))
    assert answer.reports[0].drift == 0
    assert math.isnan(answer.reports[0].first_loss)


def test_a_slice_in_which_nothing_is_found_is_not_trained_on(learnable, lesson):
    nothing = np.zeros((32, 32), bool)
    with restored(learnable):
        course = course_of(
            learnable, lesson, 1, scan(1), 3, FEW, PROTOTYPES, marks=(0, 2, 3), label_HW=nothing
        )
    assert course.losses == ()
    assert course.ahead.keys() == {0, 2, 3}
    assert torch.equal(course.ahead[3], course.ahead[0])
    assert set(course.drift.values()) == {0.0}


def test_a_course_that_stops_earlier_is_the_beginning_of_a_longer_one(learnable, lesson):
    with restored(learnable):
        long = course_of(learnable, lesson, 1, scan(1), 3, FEW, PROTOTYPES, marks=(0, 1, 3))
    short = adapted(learnable, AdaptConfig(steps=1, rate=FEW.rate, looks=FEW.looks))
    assert torch.equal(short(lesson, 1, scan(1), [3])[0], long.ahead[1])
    assert long.drift[0] == 0 < long.drift[1] < long.drift[3]
    assert 0 < long.seconds[0] < long.seconds[1] < long.seconds[3]
    assert len(long.losses) == 3


def test_training_lowers_the_loss_on_looks_that_stay_the_same(learnable):
    same = EpisodeConfig(
        rotation=0.0, shift=0.0, shear=0.0, zoom=(1.0, 1.0), elastic_alpha=0.0, gamma=(1.0, 1.0)
    )
    config = AdaptConfig(steps=20, rate=1e-2, looks=same)
    with restored(learnable):
        losses = list(trained_on(learnable, 1, scan(0), 3, scan(0).labels_ZHW[3] == 1, config, PROTOTYPES))
    assert losses[-1] < 0.95 * losses[0]


def test_drift_is_the_length_of_the_change_over_the_length_of_the_weights(learnable):
    start = weights_of(learnable)
    assert drift_of(learnable, start) == 0
    with restored(learnable), torch.no_grad():
        for weight in learnable.trainable():
            weight.mul_(1.1)
        assert drift_of(learnable, start) == pytest.approx(0.1, rel=1e-5)


def test_weights_that_run_away_are_said_in_one_line_and_reset(learnable, lesson):
    before = state_of(learnable)
    wild = AdaptConfig(steps=20, rate=1e30, looks=FEW.looks)
    with pytest.raises(TrainingError, match=r"s1, slice 3: .* give a smaller adapt.rate"):
        adapted(learnable, wild)(lesson, 1, scan(1), [3])
    assert state_of(learnable) == before


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match=r"adapt\.steps is -1"):
        AdaptConfig(steps=-1)
    with pytest.raises(ConfigError, match=r"adapt\.rate is 0"):
        AdaptConfig(rate=0.0)


def test_things_introduce_themselves(learnable):
    assert repr(adapted(learnable)) == "Adapted(3 steps, 0 slices so far)"
