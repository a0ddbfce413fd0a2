"""Predictions come back as they were kept, or not at all."""

import numpy as np
import pytest

from vetdino.platform.core.errors import DataError
from vetdino.platform.measure.metrics import auroc
from vetdino.platform.measure.predictions import (
    Predictions,
    load_predictions,
    predictions_file,
    save_predictions,
)


def predictions(rows=4):
    truth = np.array([[1, 0], [0, 1], [1, np.nan], [0, 0]], float)[:rows]
    scores = np.random.default_rng(0).normal(size=(4, 2))[:rows]
    return Predictions(
        ("mass", "stones, many"), tuple("aabc")[:rows], truth, scores, {"never": "why"}, {"k": 3}
    )


def test_no_items_are_kept_as_none(tmp_path):
    path = predictions_file(tmp_path, "knn", "random")
    save_predictions(path, predictions(0), "m", "s")
    kept = load_predictions(path)
    assert kept.predictions.truth.shape == (0, 2)
    assert path == tmp_path / "answers" / "knn-random.parquet"


def test_predictions_come_back_so_that_every_metric_is_the_same(tmp_path):
    saved = predictions()
    save_predictions(tmp_path / "a.parquet", saved, "manifest", "source")
    kept = load_predictions(tmp_path / "a.parquet")
    assert (kept.manifest, kept.source) == ("manifest", "source")
    assert (kept.predictions.findings, kept.predictions.patients) == (saved.findings, saved.patients)
    np.testing.assert_array_equal(kept.predictions.scores, saved.scores)
    np.testing.assert_array_equal(kept.predictions.truth, saved.truth)
    np.testing.assert_array_equal(
        auroc(kept.predictions.truth, kept.predictions.scores), auroc(saved.truth, saved.scores)
    )


def test_bytes_that_changed_inside_the_scores_are_noticed(tmp_path):
    path = tmp_path / "a.parquet"
    save_predictions(path, predictions(), "m", "s")
    content = bytearray(path.read_bytes())
    content[content.index(predictions().scores[0, 0].tobytes()) + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet: damaged"):
        load_predictions(path)


def test_a_damaged_table_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"a\.parquet: damaged"):
        load_predictions(tmp_path / "a.parquet")
