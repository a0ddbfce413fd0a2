"""Test-time training: what it changes, and that the reset leaves nothing of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vetdino.downstream.fewshot.learn.adaptation import (
    AdaptivePredictor,
    adapt_and_segment,
    reset_after,
    train_on_slice,
    trained_weights,
    weight_drift,
)
from vetdino.downstream.fewshot.learn.config import AdaptConfig, EpisodeConfig, LearnConfig
from vetdino.downstream.fewshot.learn.encoder import TrainableEncoder
from vetdino.downstream.fewshot.method.config import PrototypeConfig, SliceConfig
from vetdino.downstream.fewshot.method.grid import upsample
from vetdino.downstream.fewshot.method.predictors import prototype_predictor
from vetdino.downstream.fewshot.method.prototypes import predict
from vetdino.downstream.fewshot.method.support import SupportSet, build_support_set
from vetdino.downstream.volumes.volume import Volume
from vetdino.platform.core.errors import TrainingError

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
def encoder(tiny) -> TrainableEncoder:
    return TrainableEncoder(tiny, LearnConfig(neighbours=3), SliceConfig(grid=8), seed=1)


@pytest.fixture
def support() -> SupportSet:
    return build_support_set(1, "liver", [scan(0)])


def predictor(encoder: TrainableEncoder, config: AdaptConfig = FEW) -> AdaptivePredictor:
    return AdaptivePredictor(lambda _: encoder, config, PROTOTYPES)


def state_of(module: torch.nn.Module) -> dict[str, object]:
    """Everything a step could leave behind, as bytes: weights, buffers, gradients, modes, flags."""
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    state = {name: value.detach().numpy().tobytes() for name, value in tensors.items()}
    state |= {
        f"{name}.grad": None if value.grad is None else value.grad.numpy().tobytes()
        for name, value in tensors.items()
    }
    state |= {f"{name}.requires_grad": value.requires_grad for name, value in tensors.items()}
    state |= {f"{name}.mode": one.training for name, one in module.named_modules()}
    return state


def test_after_every_slice_the_encoder_is_reset_bit_for_bit(encoder, support, tiny):
    before, shared = state_of(encoder), state_of(tiny)
    random = torch.get_rng_state()
    predict_slices = predictor(encoder)
    predict_slices(support, 1, scan(1), [2, 3])
    assert [report.steps for report in predict_slices.reports] == [3, 3]
    assert all(report.drift > 0 for report in predict_slices.reports)
    assert state_of(encoder) == before
    assert state_of(tiny) == shared
    assert torch.equal(torch.get_rng_state(), random)


def test_gradients_that_were_there_before_are_there_again(encoder, support):
    for weight in encoder.trainable_parameters():
        weight.grad = torch.full_like(weight, 0.5)
    before = state_of(encoder)
    predictor(encoder)(support, 1, scan(1), [3])
    assert state_of(encoder) == before


class _RaisesLater(TrainableEncoder):
    """An encoder whose `left`-th forward pass raises an exception."""

    left = 8
    error: type[BaseException] = KeyboardInterrupt

    def tokens(self, images_nKST: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if not self.left:
            raise self.error("in the middle of a training")
        return super().tokens(images_nKST)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_training_leaves_nothing_either(tiny, support, error):
    raising = _RaisesLater(tiny, LearnConfig(), SliceConfig(grid=8), seed=1)
    raising.error = error
    before = state_of(raising)
    with pytest.raises(error, match="in the middle"):
        predictor(raising)(support, 1, scan(1), [2, 3, 4])
    assert raising.left == 0
    assert state_of(raising) == before


def test_the_reset_holds_copies_of_weights_buffers_gradients_and_modes():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    before = state_of(module)

    def change() -> None:
        with reset_after(module):
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


def test_results_do_not_depend_on_the_order_of_slices_or_scans(encoder, support):
    one, two = scan(1), scan(2)
    predict_slices = predictor(encoder)
    forth = {
        (query.name, z): predict_slices(support, 1, query, [z])[0] for query in (one, two) for z in (2, 3)
    }
    back = {
        (query.name, z): predict_slices(support, 1, query, [z])[0] for query in (two, one) for z in (3, 2)
    }
    together = predictor(encoder)(support, 1, two, [3, 2])
    assert all(torch.equal(forth[key], back[key]) for key in forth)
    assert torch.equal(together[1], forth["s2", 2])


def test_without_the_reset_the_order_matters(encoder, support):
    def last(order: list[int]) -> dict[int, torch.Tensor]:
        with reset_after(encoder):
            traces = {
                z: adapt_and_segment(encoder, support, 1, scan(1), z, FEW, PROTOTYPES, marks=(3,))
                for z in order
            }
        return {z: trace.margins[3] for z, trace in traces.items()}

    forth, back = last([2, 3]), last([3, 2])
    assert not torch.equal(forth[2], back[2])
    assert torch.equal(forth[2], last([2])[2])


def test_the_second_segmentation_uses_the_true_support(encoder, support):
    query, shown = scan(1), support.volumes[0]
    found = predictor(encoder)(support, 1, query, [3])[0]
    z = support.slices[0][1]
    with reset_after(encoder):
        label = (prototype_predictor(encoder, PROTOTYPES)(support, 1, query, [3])[0] > 0).numpy()
        assert label.any()
        for _ in train_on_slice(encoder, 1, query, 3, label, FEW, PROTOTYPES):
            pass
        mask = torch.from_numpy(shown.labels_ZHW[[z]] == 1)
        logits = predict(encoder(query, [3])[0], encoder(shown, [z]), mask, PROTOTYPES)
    back, front = upsample(logits, 32, 32)
    torch.testing.assert_close(found, front - back, atol=1e-4, rtol=1e-4)
    untrained = prototype_predictor(encoder, PROTOTYPES)(support, 1, query, [3])[0]
    assert float((found - untrained).abs().max()) > 1e-2


def test_zero_steps_give_the_plain_prediction(encoder, support):
    predict_slices = predictor(encoder, AdaptConfig())
    plain = prototype_predictor(encoder, PROTOTYPES)
    torch.testing.assert_close(
        predict_slices(support, 0, scan(1), [1, 2]), plain(support, 0, scan(1), [1, 2])
    )
    assert predict_slices.reports[0].drift == 0
    assert math.isnan(predict_slices.reports[0].first_loss)


def test_a_slice_with_an_empty_label_is_not_trained_on(encoder, support):
    nothing = np.zeros((32, 32), bool)
    with reset_after(encoder):
        trace = adapt_and_segment(
            encoder, support, 1, scan(1), 3, FEW, PROTOTYPES, marks=(0, 2, 3), label_HW=nothing
        )
    assert trace.losses == ()
    assert trace.margins.keys() == {0, 2, 3}
    assert torch.equal(trace.margins[3], trace.margins[0])
    assert set(trace.drift.values()) == {0.0}


def test_a_shorter_training_is_the_beginning_of_a_longer_one(encoder, support):
    with reset_after(encoder):
        long = adapt_and_segment(encoder, support, 1, scan(1), 3, FEW, PROTOTYPES, marks=(0, 1, 3))
    short = predictor(encoder, AdaptConfig(steps=1, rate=FEW.rate, looks=FEW.looks))
    assert torch.equal(short(support, 1, scan(1), [3])[0], long.margins[1])
    assert long.drift[0] == 0 < long.drift[1] < long.drift[3]
    assert 0 < long.seconds[0] < long.seconds[1] < long.seconds[3]
    assert len(long.losses) == 3


def test_training_lowers_the_loss_on_an_unchanged_slice(encoder):
    same = EpisodeConfig(
        rotation=0.0, shift=0.0, shear=0.0, zoom=(1.0, 1.0), elastic_alpha=0.0, gamma=(1.0, 1.0)
    )
    config = AdaptConfig(steps=20, rate=1e-2, looks=same)
    with reset_after(encoder):
        losses = list(train_on_slice(encoder, 1, scan(0), 3, scan(0).labels_ZHW[3] == 1, config, PROTOTYPES))
    assert losses[-1] < 0.95 * losses[0]


def test_drift_is_the_length_of_the_change_over_the_length_of_the_weights(encoder):
    start = trained_weights(encoder)
    assert weight_drift(encoder, start) == 0
    with reset_after(encoder), torch.no_grad():
        for weight in encoder.trainable_parameters():
            weight.mul_(1.1)
        assert weight_drift(encoder, start) == pytest.approx(0.1, rel=1e-5)


def test_diverging_weights_are_an_error_and_reset(encoder, support):
    before = state_of(encoder)
    wild = AdaptConfig(steps=20, rate=1e30, looks=FEW.looks)
    with pytest.raises(TrainingError, match="s1, slice 3"):
        predictor(encoder, wild)(support, 1, scan(1), [3])
    assert state_of(encoder) == before


def test_the_repr_counts_steps_and_slices(encoder):
    assert repr(predictor(encoder)) == "AdaptivePredictor(3 steps, 0 slices so far)"
