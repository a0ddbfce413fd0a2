"""Folders of shards that are mixed: weights, findings, orders, and what does not go together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.pretrain.conftest import other_study_of, study_of, write_shards
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.data.study import Study
from vetdino.pretrain.batches.config import OrderConfig
from vetdino.pretrain.batches.order import MixedOrder, StudyOrder
from vetdino.pretrain.config import PretrainConfig
from vetdino.pretrain.mixture import check_mixture, load_mixture, study_order


@pytest.fixture
def mixed(run_config, shards, other_shards) -> PretrainConfig:
    return replace(run_config, shards=(str(shards), str(other_shards)))


def checked(config: PretrainConfig) -> None:
    config.check()
    check_mixture(config, load_mixture(config))


def test_one_folder_is_ordered_as_it_always_was(run_config):
    mixture = load_mixture(run_config)
    assert study_order(run_config, mixture) == StudyOrder(16, 8, 0, (16,))
    assert mixture.digest == mixture.manifests[0].digest
    checked(run_config)


def test_weights_are_those_of_mix_or_the_numbers_of_studies(mixed):
    by_number, by_weight = load_mixture(mixed), load_mixture(replace(mixed, mix=(3, 1)))
    assert by_number.weights == (615385, 384615)
    assert by_weight.weights == (750000, 250000)
    order = study_order(mixed, by_weight)
    assert isinstance(order, MixedOrder)
    assert (order.studies, order.per_epoch, sum(order.archives[1])) == (26, 3, 10)
    assert [(order.rows(step) < 16).sum() for step in range(9)] == [6] * 9
    checked(mixed)


def test_findings_of_all_folders_count_and_digests_stay_apart(mixed):
    mixture = load_mixture(mixed)
    assert mixture.findings == ("bright", "rare", "dark")
    assert mixture.digest.split() == [manifest.digest for manifest in mixture.manifests]
    assert mixture.studies("train") == 26


@pytest.mark.parametrize(
    ("mix", "said"),
    [
        ((1.0,), "mix has 1 weights, shards names 2 folders"),
        ((1.0, 0.0), "mix 0 of .* must be above 0"),
        ((1.0, -2.0), "mix -2 of .* must be above 0"),
        ((1.0, float("nan")), "mix nan of .* must be above 0"),
        ((1.0, float("inf")), "mix inf of .* must be above 0"),
        ((1.0, 1e-9), "its weight is less than one study in 1,000,000"),
        ((0.01, 1.0), r"a batch takes 12 of its 10 training studies.*lower its weight"),
    ],
)
def test_weights_that_make_no_mix_are_refused(mixed, mix, said):
    with pytest.raises(ConfigError, match=said):
        checked(replace(mixed, mix=mix, batch=12))


def test_the_same_shards_twice_are_refused_also_from_two_folders(mixed, shards, tmp_path):
    for again in (str(shards), str(write_shards(tmp_path / "copy"))):
        with pytest.raises(ConfigError, match="hold the same shards; name them once"):
            checked(replace(mixed, shards=(str(shards), again)))


def test_a_folder_without_training_studies_or_with_fewer_than_lanes_is_refused(mixed, shards, tmp_path):
    empty = write_shards(tmp_path / "empty", other_study_of, splits={"val": 3})
    with pytest.raises(ConfigError, match="empty: has no training studies"):
        checked(replace(mixed, shards=(str(shards), str(empty))))
    few = write_shards(tmp_path / "few", other_study_of, splits={"train": 3})
    lanes = replace(mixed, shards=(str(shards), str(few)), order=OrderConfig(window=1, lanes=4))
    with pytest.raises(ConfigError, match=r"few: 3 training studies cannot be divided among order.lanes 4"):
        checked(lanes)


def overlapping(folder: Path, **same: str) -> str:
    """A folder whose one test study has a key or a patient of the first folder's training split."""

    def make(split: str, number: int) -> Study:
        return replace(other_study_of(split, number), **(same if split == "test" else {}))

    return str(write_shards(folder, make, splits={"train": 8, "test": 1}))


def test_a_patient_who_trains_in_one_folder_and_tests_in_another_is_refused(mixed, shards, tmp_path):
    patient = study_of("train", 5).patient
    with pytest.raises(
        ConfigError, match=r"a patient is in the train split of .* and in the test split of"
    ) as e:
        checked(replace(mixed, shards=(str(shards), overlapping(tmp_path / "leak", patient=patient))))
    assert patient not in str(e.value)


def test_a_study_of_two_folders_is_refused(mixed, shards, tmp_path):
    key = study_of("train", 5).key
    with pytest.raises(ConfigError, match="share a study"):
        checked(replace(mixed, shards=(str(shards), overlapping(tmp_path / "twice", key=key))))


def test_a_patient_of_the_same_split_in_two_folders_is_no_leak(mixed, shards, tmp_path):
    def make(split: str, number: int) -> Study:
        return replace(other_study_of(split, number), patient=study_of(split, number).patient)

    folder = write_shards(tmp_path / "visits", make, splits={"train": 8, "val": 2})
    checked(replace(mixed, shards=(str(shards), str(folder))))
