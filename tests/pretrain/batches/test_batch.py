"""Crops of studies side by side: which lies where."""

from __future__ import annotations

import numpy as np
import torch

from vetdino.pretrain.batches.batch import collate_crops
from vetdino.pretrain.batches.crops import StudyCrops

STUDIES, GLOBALS, LOCALS, PATCHES = 3, 2, 4, 9


def crops_of(number: int, locals_: int = LOCALS) -> StudyCrops:
    """Every crop filled with a number that tells study, view and place."""
    filled = lambda count, side, base: np.stack(
        [
            np.stack([np.full((side, side), base + 100 * number + 10 * view + crop, np.uint8) for crop in range(count)])
            if count
            else np.zeros((0, side, side), np.uint8)
            for view in (0, 1)
        ]
    )  # fmt: skip
    return StudyCrops(f"key{number}", filled(GLOBALS, 6, 0), filled(locals_, 4, 5), number != 1)


def hidden_of(number: int) -> np.ndarray:
    hidden = np.zeros((GLOBALS, PATCHES), bool)
    hidden[:, number] = True
    return hidden


def test_the_teachers_view_comes_first_and_each_study_keeps_its_column():
    batch = collate_crops([crops_of(n) for n in range(2)], [hidden_of(n) for n in range(2)])
    assert batch.globals_GB1SS.shape == (2 * GLOBALS, 2, 1, 6, 6)
    assert batch.locals_LB1SS.shape == (2 * LOCALS, 2, 1, 4, 4)
    assert batch.globals_GB1SS.dtype == torch.uint8
    for view in (0, 1):
        for study in range(2):
            for crop in range(GLOBALS):
                place = batch.globals_GB1SS[view * GLOBALS + crop, study]
                assert (place == 100 * study + 10 * view + crop).all()
            for crop in range(LOCALS):
                place = batch.locals_LB1SS[view * LOCALS + crop, study]
                assert (place == 5 + 100 * study + 10 * view + crop).all()


def test_hidden_patches_are_those_of_each_study_and_pairs_are_counted():
    batch = collate_crops([crops_of(n) for n in range(STUDIES)], [hidden_of(n) for n in range(STUDIES)])
    assert batch.hidden_TBN.shape == (GLOBALS, STUDIES, PATCHES)
    for study in range(STUDIES):
        assert batch.hidden_TBN[:, study].nonzero()[:, 1].tolist() == [study] * GLOBALS
    assert batch.keys == ("key0", "key1", "key2")
    assert batch.pairs == 2


def test_there_may_be_no_local_crops():
    batch = collate_crops([crops_of(n, locals_=0) for n in range(2)], [hidden_of(n) for n in range(2)])
    assert len(batch.locals_LB1SS) == 0


def test_a_batch_introduces_itself_without_arrays_and_moves_whole():
    batch = collate_crops([crops_of(0)], [hidden_of(0)])
    assert repr(batch.to("cpu")) == "CropBatch(1 studies, 1 pairs)"
