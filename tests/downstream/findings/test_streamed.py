"""The solver that reads blocks of rows ends where scikit-learn's exact one does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.downstream.findings.test_linear import COUNTS, features, one
from vetdino.downstream.findings import linear as module
from vetdino.downstream.findings import streamed
from vetdino.downstream.findings.config import LinearConfig
from vetdino.downstream.findings.linear import linear
from vetdino.downstream.findings.streamed import RowBlocks
from vetdino.platform.measure.metrics import auroc


def with_unknown(table, share=0.3, seed=7):
    labels = table.labels.copy()
    labels[np.random.default_rng(seed).random(labels.shape) < share] = np.nan
    return replace(table, labels=labels)


def exclusive(table, classes):
    """One finding a study, or none of them."""
    which = table.labels @ [1, 2] % (classes + 1)
    label_NF = np.stack([which == number + 1 for number in range(classes)], axis=1).astype(np.float32)
    return replace(table, findings=tuple("abc"[:classes]), labels=label_NF)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(streamed, "BLOCK", 97)


@pytest.mark.parametrize("weight", ["none", "balanced"])
@pytest.mark.parametrize("kind", ["findings", "unknown", "two classes", "three classes"])
def test_coefficients_are_those_of_the_exact_solver(small_blocks, weight, kind, monkeypatch):
    monkeypatch.setattr(module, "TOLERANCE", 1e-8)  # the exact solver's own would differ by more
    table = features({"train": 900}, width=16)
    table = {
        "findings": lambda: table,
        "unknown": lambda: with_unknown(table),
        "two classes": lambda: exclusive(table, 1),
        "three classes": lambda: exclusive(table, 2),
    }[kind]()
    config = LinearConfig(class_weight=weight, exclusive="classes" in kind, max_iterations=500)
    cs = sorted(config.cs)
    exact = list(module._exact_path(table, cs, config))
    blocks = list(module._streamed_path(table, np.arange(len(table)), cs, config, "cpu"))
    for one_fit, other in zip(exact, blocks, strict=True):
        assert other.converged
        np.testing.assert_allclose(other.weight_KD, one_fit.weight_KD, atol=1e-3)
        np.testing.assert_allclose(other.scores(table.vectors), one_fit.scores(table.vectors), atol=3e-3)


def test_the_probe_measures_the_same(small_blocks, monkeypatch):
    table = with_unknown(features({"train": 600, "val": 200, "test": 300}, width=16, strength=0.6))
    exact = linear(one(table))
    monkeypatch.setattr(module, "STREAMED", 500)
    blocks = linear(one(table), device="cpu")
    assert "solver" not in exact.facts
    assert blocks.facts["solver"] == "L-BFGS, block by block"
    assert blocks.facts["C"] == exact.facts["C"]
    assert "not_converged" not in blocks.facts
    np.testing.assert_allclose(
        auroc(blocks.truth, blocks.scores), auroc(exact.truth, exact.scores), atol=1e-3
    )


def test_folds_are_read_from_the_same_table(small_blocks, monkeypatch):
    table = features({"train": 600, "test": 300}, width=16, strength=0.6)
    exact = linear(one(table))
    monkeypatch.setattr(module, "STREAMED", 300)
    blocks = linear(one(table))
    assert "by 5 folds of patients" in blocks.facts["chosen"]
    assert blocks.facts["chosen"] == exact.facts["chosen"]
    np.testing.assert_allclose(
        auroc(blocks.truth, blocks.scores), auroc(exact.truth, exact.scores), atol=1e-3
    )


def test_which_solver_runs_depends_on_the_rows_alone(monkeypatch):
    table = features(COUNTS)
    monkeypatch.setattr(module, "_streamed_path", lambda *_: pytest.fail("the exact solver can do this"))
    linear(one(table))
    monkeypatch.setattr(module, "STREAMED", COUNTS["train"] - 1)
    with pytest.raises(pytest.fail.Exception):
        linear(one(table))


def test_a_dimension_that_never_varies_and_float16_are_no_trouble(small_blocks):
    table = features({"train": 400}, width=8)
    vectors = np.concatenate([table.vectors, np.full((400, 1), 0.3, np.float32)], axis=1).astype(np.float16)
    table = replace(table, vectors=vectors)
    config = LinearConfig(max_iterations=500)
    (exact,) = module._exact_path(table, [1.0], config)
    (blocks,) = module._streamed_path(table, np.arange(400), [1.0], config, "cpu")
    np.testing.assert_allclose(blocks.weight_KD, exact.weight_KD, atol=1e-3)
    assert blocks.weight_KD[:, -1].tolist() == [0, 0]


def test_rows_come_in_blocks_that_together_are_those_chosen(monkeypatch):
    monkeypatch.setattr(streamed, "BLOCK", 3)
    vectors = np.arange(20, dtype=np.float16).reshape(10, 2)
    rows = np.array([0, 1, 2, 5, 7, 8, 9])
    blocks = list(RowBlocks(vectors, rows, torch.device("cpu")).blocks())
    assert [place.stop - place.start for place, _ in blocks] == [3, 3, 1]
    assert torch.cat([block for _, block in blocks]).tolist() == vectors[rows].tolist()


def test_too_few_steps_are_said(small_blocks, monkeypatch):
    monkeypatch.setattr(module, "STREAMED", 100)
    answers = linear(one(features(COUNTS)), LinearConfig(max_iterations=1))
    assert answers.facts["not_converged"].endswith("strengths")
