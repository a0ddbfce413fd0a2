"""Slices of several workers are read as one; what does not fit is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from vetdino.platform.core.errors import CheckpointError
from vetdino.pretrain.distillation.engine_state import (
    EngineState,
    ParameterSlice,
    slice_tensors,
    wait_for_files,
    worker_file,
)


@pytest.fixture
def folder(tmp_path):
    """Ten numbers of one parameter on two workers, cut at 4."""
    values = torch.arange(10.0)
    for rank, (first, last) in enumerate([(0, 4), (4, 10)]):
        file = worker_file(tmp_path, rank)
        file.parent.mkdir(exist_ok=True)
        part = ParameterSlice("head.weight", 10, first, {"weight": values[first:last].clone()})
        save_file(slice_tensors([part], torch.tensor(7.0)), file)
    return tmp_path


@pytest.mark.parametrize(("first", "last"), [(0, 10), (0, 3), (2, 7), (4, 10), (9, 10)])
def test_any_slice_is_put_together_from_all_files(first, last, folder):
    row = torch.full((last - first,), -1.0)
    state = EngineState(folder)
    state.read_into(ParameterSlice("head.weight", 10, first, {"weight": row}))
    assert row.tolist() == list(range(first, last))
    assert state.step == 7


def test_another_size_or_a_missing_parameter_is_refused_with_both_sizes(folder):
    row = torch.zeros(8)
    with pytest.raises(CheckpointError, match=r"head\.weight has 10 numbers, here it has 8"):
        EngineState(folder).read_into(ParameterSlice("head.weight", 8, 0, {"weight": row}))
    with pytest.raises(CheckpointError, match=r"head\.bias has 0 numbers"):
        EngineState(folder).read_into(ParameterSlice("head.bias", 8, 0, {"weight": row}))


def test_a_folder_without_files_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no engine state"):
        EngineState(tmp_path)


def test_files_that_do_not_come_are_waited_for_no_longer_than_allowed(folder):
    wait_for_files([worker_file(folder, 0)], seconds=0)
    with pytest.raises(TimeoutError, match="worker0002"):
        wait_for_files([worker_file(folder, 2)], seconds=0.1)
