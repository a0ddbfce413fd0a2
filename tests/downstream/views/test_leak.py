"""What is in the vectors is decoded, what is not is not."""

from dataclasses import replace

import numpy as np
import pytest

from vetdino.downstream.views.intervals import PatientBootstrap
from vetdino.downstream.views.leak import _balanced_accuracy, leak
from vetdino.downstream.views.vectors import ViewVectors
from vetdino.platform.core.errors import FeaturesError

STRENGTHS = (0.001, 0.03, 1.0)
BOOTSTRAP = PatientBootstrap("ours", 200, 0)


def leaking(make_views, share, split, count=80, seed=0):
    """Vectors that tell the projection by `share`, and the finding a little; `voi` is in nothing."""
    random = np.random.default_rng((seed, len(split)))
    names = random.choice(["VD", "LLAT", "RLAT"], count)
    label = random.integers(0, 2, count)
    vectors = random.normal(size=(count, 8))
    vectors[:, :3] += 20 * share * (names[:, None] == np.array(["VD", "LLAT", "RLAT"]))
    vectors[:, 4] += 3 * label
    facts = [{"voi": str(word), "same": "always"} for word in random.choice(["window", "lut"], count)]
    keys = [f"{split}{number}" for number in range(count)]
    return make_views(vectors, keys, names.tolist(), split=split, labels=label[:, None], facts=facts)


def splits_of(make_views, share):
    return {split: leaking(make_views, share, split) for split in ("train", "val", "test")}


def test_a_projection_that_is_in_the_vectors_is_decoded_and_one_that_is_not_is_not(by_name, make_views):
    loud, quiet = (leak(splits_of(make_views, share), STRENGTHS, BOOTSTRAP) for share in (1.0, 0.0))
    assert by_name(loud)["leak_balanced_accuracy", "projection"].value > 0.95
    silent = by_name(quiet)["leak_balanced_accuracy", "projection"]
    assert silent.low < 1 / 3 < silent.high
    assert by_name(quiet)["leak_balanced_accuracy_chance", "projection"].value == pytest.approx(1 / 3)
    assert by_name(quiet)["leak_auroc", "findings"].value > 0.8
    assert by_name(quiet)["leak_balanced_accuracy", "voi"].value < 0.7
    assert "leak same" in quiet.left_out
    assert loud.facts["leak_projection"] == "LLAT, RLAT, VD"


def test_balanced_accuracy_is_scikit_learns():
    from sklearn.metrics import balanced_accuracy_score

    from vetdino.platform.measure.predictions import Predictions

    random = np.random.default_rng(0)
    truth, scores = random.choice(3, 50, p=[0.7, 0.2, 0.1]), random.normal(size=(50, 3))
    answers = Predictions(("a", "b", "c"), tuple(f"p{n % 9}" for n in range(50)), np.eye(3)[truth], scores)
    value, chance = _balanced_accuracy("projection", answers, BOOTSTRAP)
    assert value.value == pytest.approx(balanced_accuracy_score(truth, scores.argmax(axis=1)))
    assert value.low < value.value < value.high
    assert chance.value == pytest.approx(1 / 3)


def test_a_patient_in_two_splits_is_refused_and_no_train_is_named(make_views):
    views = splits_of(make_views, 1.0)
    train = views["train"]
    known = replace(train, features=replace(train.features, patients=views["test"].features.patients))
    with pytest.raises(FeaturesError, match="patients are in"):
        leak({**views, "train": known}, STRENGTHS, BOOTSTRAP)
    nothing = ViewVectors(views["train"].features.rows([]), (), ())
    assert leak({**views, "train": nothing}, STRENGTHS, BOOTSTRAP).left_out == {
        "leak": "no studies in the train split"
    }
