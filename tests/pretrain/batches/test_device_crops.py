"""Crops that are cut on the device are those that the loaders cut."""

from __future__ import annotations

from dataclasses import fields, replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vetdino.platform.data.study import Study, View
from vetdino.pretrain.batches import device_crops
from vetdino.pretrain.batches.batch import CropBatch, collate_crops
from vetdino.pretrain.batches.config import CropConfig
from vetdino.pretrain.batches.crop_plan import planned_study
from vetdino.pretrain.batches.crops import cut_crops
from vetdino.pretrain.batches.device_crops import (
    REACH,
    PlannedBatch,
    blur_kernels,
    collate_plans,
    crops_on_device,
    cut_batch,
    cuts_on_device,
)

CONFIG = CropConfig(global_side=48, local_side=24, locals_per_view=3)

PLAIN = replace(
    CONFIG, rotation=0, flip=0, brightness=0, contrast=0, gamma=0, noise=0, blur=0, global_area=(1, 1)
)

SIZES = ((80, 60), (131, 97), (64, 64), (200, 33), (47, 260))
"""Of views: odd and even, from one to three halvings."""


def picture_of(size: tuple[int, int], number: int) -> np.ndarray:
    """A smooth picture with a little texture."""
    generator = np.random.default_rng(number)
    coarse = generator.integers(0, 256, (7, 6), np.uint8)
    smooth = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC).astype(float)
    return np.clip(smooth + generator.normal(0, 4, size), 0, 255).astype(np.uint8)


def study_of(number: int, sizes: tuple[tuple[int, int], ...]) -> Study:
    views = (View(picture_of(size, 10 * number + place)) for place, size in enumerate(sizes))
    return Study(f"k{number}", "p", tuple(views))


STUDIES = [study_of(number, (SIZES[number], SIZES[(2 * number + 1) % 5])) for number in range(5)]

HIDDEN = np.arange(18).reshape(2, 9) % 2 == 0


def planned(studies: list[Study], config: CropConfig, seed: int = 0) -> PlannedBatch:
    return collate_plans(
        [planned_study(study, config, seed=seed, epoch=0) for study in studies], [HIDDEN] * len(studies)
    )


def by_loaders(studies: list[Study], config: CropConfig, seed: int = 0) -> CropBatch:
    whole = [planned_study(study, config, seed=seed, epoch=0) for study in studies]
    return collate_crops([cut_crops(study, config) for study in whole], [HIDDEN] * len(studies))


def both(one: CropBatch, two: CropBatch) -> list[tuple[Tensor, Tensor]]:
    assert (one.keys, one.is_pair) == (two.keys, two.is_pair)
    assert torch.equal(one.hidden_TBN, two.hidden_TBN)
    pairs = [(one.globals_GB1SS, two.globals_GB1SS), (one.locals_LB1SS, two.locals_LB1SS)]
    assert all(left.shape == right.shape and left.dtype == right.dtype for left, right in pairs)
    return pairs


def alike(one: CropBatch, two: CropBatch) -> bool:
    """Whether no crop differs by more than 0.6 greys in the mean and by more than a few anywhere."""
    apart = [(left.float() - right.float()).abs() for left, right in both(one, two)]
    return all(off.mean(dim=(-1, -2)).max() < 0.6 and off.max() <= 6 for off in apart if off.numel())


def same(one: CropBatch, two: CropBatch) -> bool:
    return all(torch.equal(left, right) for left, right in both(one, two))


@pytest.mark.parametrize("seed", range(4))
def test_the_device_cuts_what_the_loaders_cut(seed):
    assert alike(cut_batch(planned(STUDIES, CONFIG, seed), CONFIG), by_loaders(STUDIES, CONFIG, seed))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(20, 300), st.integers(20, 300)), min_size=2, max_size=2),
    st.integers(0, 2**32),
    st.sampled_from([8, 21, 32]),
)
def test_views_and_crops_of_any_size_are_cut_alike(sizes, seed, local_side):
    config = replace(CONFIG, local_side=local_side, rotation=45)
    studies = [study_of(seed % 97, tuple(sizes)), STUDIES[0]]
    assert alike(cut_batch(planned(studies, config, seed), config), by_loaders(studies, config, seed))


def test_a_crop_is_the_same_in_whatever_batch_it_is_cut(monkeypatch):
    whole = cut_batch(planned(STUDIES, CONFIG), CONFIG)
    for column, study in enumerate(STUDIES):
        alone = cut_batch(planned([study], CONFIG), CONFIG)
        assert torch.equal(whole.globals_GB1SS[:, column : column + 1], alone.globals_GB1SS)
        assert torch.equal(whole.locals_LB1SS[:, column : column + 1], alone.locals_LB1SS)
    monkeypatch.setattr(device_crops, "STUDIES_AT_ONCE", 2)
    assert same(cut_batch(planned(STUDIES, CONFIG), CONFIG), whole)


def test_noise_is_the_loaders_to_the_last_grey():
    flat = [Study("k", "p", (View(np.full((90, 70), 120, np.uint8)), View(np.full((60, 64), 90, np.uint8))))]
    config = replace(CONFIG, rotation=0, blur=0, noise=0.2)
    assert same(cut_batch(planned(flat, config), config), by_loaders(flat, config))
    assert cut_batch(planned(flat, config), config).globals_GB1SS.float().std() > 2


def test_outside_of_the_view_is_black_though_its_frame_is_larger():
    light = [Study("a", "p", (View(np.full((70, 50), 255, np.uint8)),)), study_of(1, ((300, 280),))]
    config = replace(CONFIG, rotation=80, brightness=0, contrast=0, gamma=0, noise=0, blur=0)
    crops = cut_batch(planned(light, config), config)
    assert alike(crops, by_loaders(light, config))
    assert (crops.globals_GB1SS[:, 0] == 0).any(dim=(-1, -2)).any()


def test_crops_may_reach_over_the_end_of_a_view_that_fills_its_frame():
    full = [Study("a", "p", (View(picture_of((64, 64), 1)),))]
    config = replace(CONFIG, rotation=180, global_area=(1, 1), global_side=64)
    whole = planned(full, config)
    assert (whole.levels, whole.frames_BVHW.shape[2:]) == (1, (64, 64))
    assert alike(cut_batch(whole, config), by_loaders(full, config))


def test_there_may_be_no_local_crops():
    config = replace(CONFIG, locals_per_view=0)
    crops = cut_batch(planned(STUDIES, config), config)
    assert crops.locals_LB1SS.shape == (0, 5, 1, 24, 24)
    assert alike(crops, by_loaders(STUDIES, config))


def test_whatever_a_loader_ships_becomes_crops_on_the_device():
    device = torch.device("cpu")
    whole, crops = planned(STUDIES, CONFIG), by_loaders(STUDIES, CONFIG)
    assert same(crops_on_device(device, whole, CONFIG), cut_batch(whole, CONFIG))
    assert same(crops_on_device(device, crops, CONFIG), crops)


def test_a_single_view_stands_for_both():
    config = replace(CONFIG, p_multiview=0)
    crops = cut_batch(planned(STUDIES, config), config)
    assert crops.pairs == 0
    assert alike(crops, by_loaders(STUDIES, config))


def test_autocast_changes_nothing():
    whole = planned(STUDIES, CONFIG)
    with torch.autocast("cpu", torch.bfloat16):
        under = cut_batch(whole, CONFIG)
    assert same(under, cut_batch(whole, CONFIG))


class NoLook(TorchFunctionMode):
    """Refuses what makes a host wait for its device: a value read out, or a shape that depends on values."""

    LOOKS = (
        *(
            "item",
            "tolist",
            "numpy",
            "cpu",
            "__bool__",
            "__int__",
            "__float__",
            "__index__",
            "equal",
            "allclose",
        ),
        *("nonzero", "argwhere", "masked_select", "unique", "bincount", "repeat_interleave"),
    )

    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert func.__name__ not in self.LOOKS, f"{func.__name__} waits for the device"
        if func.__name__ == "__getitem__":
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert not any(isinstance(place, Tensor) and place.dtype == torch.bool for place in places)
        return func(*args, **(kwargs or {}))


def test_no_value_is_looked_at_while_crops_are_cut():
    whole = planned(STUDIES, CONFIG)
    with NoLook():
        cut_batch(whole, CONFIG)
    with NoLook(), pytest.raises(AssertionError, match="waits for the device"):
        whole.noise_BVC.max().item()


def test_blurs_are_those_of_opencv():
    picture = np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)
    config = replace(PLAIN, global_side=40, locals_per_view=0, blur=1)
    study = Study("k", "p", (View(picture),))
    for seed in range(20):
        by_device, by_opencv = (
            cut_batch(planned([study], config, seed), config),
            by_loaders([study], config, seed),
        )
        assert (by_device.globals_GB1SS.int() - by_opencv.globals_GB1SS.int()).abs().max() <= 1


def test_kernels_are_gaussians_in_whole_256ths():
    deviations = np.array([0.0, 0.1, 0.4, 0.8, 1.5])
    kernels = blur_kernels(deviations)
    assert kernels.shape == (5, 2 * REACH + 1)
    assert (kernels.sum(axis=1) == 256).all()
    assert np.array_equal(kernels, np.rint(kernels))
    assert np.array_equal(kernels, kernels[:, ::-1])
    for deviation, kernel in zip(deviations[1:], kernels[1:], strict=True):
        expected = cv2.getGaussianKernel(2 * REACH + 1, deviation)[:, 0]
        assert abs(kernel / 256 - expected).max() < 1 / 256
    assert np.flatnonzero(kernels[0]).tolist() == [REACH]


@pytest.mark.parametrize(
    ("where", "device", "on_device"),
    [
        ("auto", "cuda", True),
        ("auto", "cpu", False),
        ("device", "cpu", True),
        ("cpu", "cuda", False),
    ],
)
def test_auto_cuts_on_cuda_alone(where, device, on_device):
    assert cuts_on_device(CropConfig(cut_on=where), torch.device(device)) is on_device


def test_views_move_whole_and_introduce_themselves_without_arrays():
    whole = planned(STUDIES[:2], CONFIG)
    assert repr(whole.to("cpu")) == "PlannedBatch(2 studies, 2 pairs, frames 256x128)"
    moved = whole.to("meta")
    tensors = [field.name for field in fields(whole) if isinstance(getattr(whole, field.name), Tensor)]
    assert len(tensors) == 9
    assert all(getattr(moved, name).is_meta for name in tensors)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_cuts_what_the_loaders_cut_without_waiting():
    whole = planned(STUDIES, CONFIG).pin_memory().to("cuda")
    cut_batch(whole, CONFIG)  # brings the table of the normal distribution
    torch.cuda.set_sync_debug_mode("error")
    try:
        crops = cut_batch(whole, CONFIG)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert alike(crops.to("cpu"), by_loaders(STUDIES, CONFIG))
