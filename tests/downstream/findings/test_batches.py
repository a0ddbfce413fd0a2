"""A study's batch follows from seed, epoch and key alone; augmentation keeps a view what it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vetdino.downstream.findings.batches import StudyLoader, augmented, epoch_steps
from vetdino.platform.data.index import StudyIndex
from vetdino.platform.models.letterbox import letterboxed


def test_an_epoch_shows_each_study_once_and_epochs_differ():
    steps = epoch_steps(10, 4, seed=0, epoch=0)
    rows = np.concatenate(steps)
    assert len(set(rows)) == len(rows) == 8
    assert not np.array_equal(rows, np.concatenate(epoch_steps(10, 4, seed=0, epoch=1)))
    assert not np.array_equal(rows, np.concatenate(epoch_steps(10, 4, seed=1, epoch=0)))


def test_without_augmentation_a_view_is_letterboxed_as_the_backbone_does(quick):
    view = np.random.default_rng(0).integers(0, 255, (40, 28), dtype=np.uint8)
    plain = replace(quick, crop=1.0, rotation=0.0, flip=0.0, intensity=0.0)
    random = np.random.default_rng(1)
    assert np.array_equal(augmented(view, 32, plain, random), letterboxed(view, 32))
    mirrored = augmented(view, 32, replace(plain, flip=1.0), random)
    assert np.array_equal(mirrored, letterboxed(view, 32)[:, ::-1])


def test_an_augmented_view_is_much_like_it_was_and_black_stays_black(quick):
    rows, columns = np.mgrid[:60, :60]
    view = (100 + 60 * np.sin(rows / 9) + 40 * np.cos(columns / 7)).astype(np.uint8)
    mild = replace(quick, crop=0.9, rotation=5.0, flip=0.0)
    seen = [augmented(view, 32, mild, np.random.default_rng(seed)) for seed in range(20)]
    plain = letterboxed(view, 32).astype(float)
    middle = slice(6, -6)
    for picture in seen:
        assert picture.dtype == np.uint8
        assert np.corrcoef(picture[middle, middle].ravel(), plain[middle, middle].ravel())[0, 1] > 0.7
    assert len({picture.tobytes() for picture in seen}) == 20
    black = augmented(np.zeros((20, 30), np.uint8), 32, quick, np.random.default_rng(0))
    assert not black.any()


def test_what_is_drawn_for_a_study_follows_from_seed_epoch_and_key_alone(folder, quick):
    reader = StudyLoader(str(folder), quick, side=32, depth=2)
    alone = next(reader.batches([["train5"]], epoch=4))
    (_, second) = reader.batches([["train1", "train2"], ["train5", "train3"]], epoch=4)
    views = len(alone.images)
    assert np.array_equal(second.images[:views], alone.images)
    assert np.array_equal(second.drop_draws[:views], alone.drop_draws)
    assert second.counts.tolist() == [3, 3]
    for other in (
        next(reader.batches([["train5"]], epoch=5)),
        next(StudyLoader(str(folder), replace(quick, seed=1), 32, 2).batches([["train5"]], epoch=4)),
    ):
        assert not np.array_equal(other.images, alone.images)
        assert not np.array_equal(other.drop_draws, alone.drop_draws)
    plain = next(reader.batches([["train5"]]))
    assert plain.drop_draws is None
    assert np.array_equal(
        plain.images[0], letterboxed(StudyIndex(folder, "train").load(5).view(0).pixels, 32)
    )
