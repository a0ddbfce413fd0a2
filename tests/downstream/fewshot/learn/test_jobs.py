"""Which encoders a training makes, and that none sees what it is evaluated on."""

from __future__ import annotations

import pytest

from vetdino.downstream.fewshot.learn.config import TrainConfig
from vetdino.downstream.fewshot.learn.jobs import encoder_jobs, organ_groups
from vetdino.downstream.fewshot.method.protocol import cross_validation_folds
from vetdino.platform.core.errors import ConfigError

TWO_ORGANS = {1: "liver", 2: "spleen"}


def test_an_encoder_never_sees_the_query_and_support_scans_of_its_fold(volumes_class):
    volumes = volumes_class(6, TWO_ORGANS)
    jobs = encoder_jobs(volumes, TrainConfig(folds=3, groups=("liver+2",)))
    assert [job.fold for job in jobs] == [0, 1, 2]
    labeled = [name for name in volumes.names if name != "9"]
    for job, fold in zip(jobs, cross_validation_folds(labeled, 3), strict=True):
        assert not set(job.scans) & {*fold.queries, *fold.supports}
        assert {*job.scans, *fold.queries, *fold.supports} == set(volumes.names)
        assert job.excluded == job.organs == (1, 2)


def test_setting_1_has_one_encoder_per_fold_and_excludes_no_slice(volumes_class):
    jobs = encoder_jobs(volumes_class(6, TWO_ORGANS), TrainConfig(folds=3, setting="I"))
    assert [(job.fold, job.organs, job.excluded) for job in jobs] == [(fold, (1, 2), ()) for fold in range(3)]


def test_setting_2_has_one_encoder_per_fold_and_group(volumes_class):
    jobs = encoder_jobs(volumes_class(4, TWO_ORGANS), TrainConfig(folds=2))
    assert [job.name for job in jobs] == [f"fold_{fold}_organs_{n}" for fold in (0, 1) for n in (1, 2)]


def test_too_few_scans_to_train_on_are_refused(volumes_class):
    volumes = volumes_class(2)
    volumes.names = ("0", "1")
    with pytest.raises(ConfigError, match="2 scans"):
        encoder_jobs(volumes, TrainConfig(folds=2))


def test_by_default_left_and_right_of_an_organ_are_one_group():
    classes = {1: "liver", 2: "right kidney", 3: "Left kidney", 4: "spleen"}
    assert organ_groups(classes) == [(1,), (2, 3), (4,)]
    assert organ_groups(classes, ("liver+spleen", "2 + left kidney")) == [(1, 4), (2, 3)]


@pytest.mark.parametrize(("groups", "fact"), [(("spleem",), "'spleen'"), (("liver", "1+spleen"), "liver")])
def test_unknown_and_repeated_organs_are_refused(groups, fact):
    with pytest.raises(ConfigError, match=fact):
        organ_groups({1: "liver", 4: "spleen"}, groups)
