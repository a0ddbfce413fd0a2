"""Both objectives are what the training loop takes."""

from __future__ import annotations

import inspect

import pytest

from vetdino.pretrain.distillation.distiller import Distiller
from vetdino.pretrain.feature_distillation.distiller import FeatureDistiller
from vetdino.pretrain.objective import Objective


@pytest.mark.parametrize("kind", [Distiller, FeatureDistiller])
def test_an_objective_has_every_method_with_its_parameters(kind):
    wanted = [name for name, value in vars(Objective).items() if inspect.isfunction(value) and name[0] != "_"]
    assert {"step_targets", "losses", "after_step", "network", "saved_state"} < set(wanted)
    for name in set(wanted) - {"load_state_dict"}:
        found = inspect.signature(getattr(kind, name)).parameters
        assert list(found) == list(inspect.signature(getattr(Objective, name)).parameters), name
    assert isinstance(kind.identity, property)
    assert kind.loss_names[0] == "total"
