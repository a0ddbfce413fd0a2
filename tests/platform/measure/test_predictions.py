"""Answers come back as they were kept, or not at all."""

import numpy as np
import pytest

from vetdino.platform.core.errors import DataError
from vetdino.platform.measure.metrics import Answers, auroc
from vetdino.platform.measure.predictions import answers_file, load_answers, save_answers


def answers(rows=4):
    truth = np.array([[1, 0], [0, 1], [1, np.nan], [0, 0]], float)[:rows]
    scores = np.random.default_rng(0).normal(size=(4, 2))[:rows]
    return Answers(("mass", "stones, many"), tuple("aabc")[:rows], truth, scores, {"never": "why"}, {"k": 3})


def test_no_answers_are_kept_as_none(tmp_path):
    path = answers_file(tmp_path, "knn", "random")
    save_answers(path, answers(0), "m", "s")
    kept = load_answers(path)
    assert kept.answers.truth.shape == (0, 2)
    assert path == tmp_path / "answers" / "knn-random.parquet"


def test_answers_come_back_so_that_every_figure_is_the_same(tmp_path):
    told = answers()
    save_answers(tmp_path / "a.parquet", told, "manifest", "source")
    kept = load_answers(tmp_path / "a.parquet")
    assert (kept.manifest, kept.source) == ("manifest", "source")
    assert (kept.answers.findings, kept.answers.patients) == (told.findings, told.patients)
    np.testing.assert_array_equal(kept.answers.scores, told.scores)
    np.testing.assert_array_equal(kept.answers.truth, told.truth)
    np.testing.assert_array_equal(
        auroc(kept.answers.truth, kept.answers.scores), auroc(told.truth, told.scores)
    )


def test_a_damaged_table_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(
        DataError, match=r"a\.parquet: damaged or no table of answers; run `vetdino evaluate`"
    ):
        load_answers(tmp_path / "a.parquet")
