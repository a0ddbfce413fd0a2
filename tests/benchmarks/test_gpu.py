"""The benchmark of a GPU, at tiny size on the CPU: every row runs, and one that fails stops no other."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as module
from benchmarks.gpu.__main__ import ROWS, line, main, reason, write
from benchmarks.gpu.rows import Bench, TooManyStudiesError, known_gpu, largest_batch, step_config, work_of
from vetdino.pretrain.planning.hardware import GIB

TINY = Bench(torch.device("cpu"), tiny=True, seconds=1.0)


def test_every_row_has_its_work():
    assert all(callable(work_of(name)) for name in ROWS)
    assert work_of("step vet_s14 compiled").keywords == {"name": "vet_s14", "compiled": True}


@pytest.mark.parametrize(
    ("name", "memory", "known"),
    [
        ("NVIDIA H200", 141 * GIB, "h200"),
        ("NVIDIA H100 80GB HBM3", 80 * GIB, "h100"),
        ("NVIDIA A100-SXM4-80GB", 80 * GIB, "a100"),
        ("NVIDIA A100-PCIE-40GB", 40 * GIB, "a100-40"),
        ("NVIDIA GeForce RTX 4090", 24 * GIB, "rtx4090"),
        ("NVIDIA L40S", 45 * GIB, "l40s"),
        ("Quadro T1000", 4 * GIB, None),
    ],
)
def test_a_gpu_is_known_by_cudas_name(name, memory, known):
    gpu = known_gpu(name, memory)
    assert (gpu.name if gpu else None) == known


def test_a_step_is_the_recipes_on_one_worker_in_bfloat16():
    config = step_config("multi_view_l14", 48, Bench(torch.device("cuda"), False, 1.0), compiled=True)
    assert (config.batch, config.workers, config.optim.zero, config.optim.micro_batch) == (48, 1, 0, 0)
    assert (config.optim.precision, config.optim.compile) == ("bfloat16", True)
    assert config.backbone.name == "vit_large_patch14_dinov2"


@pytest.mark.slow
def test_the_largest_batch_grows_with_the_memory_up_to_the_recipes():
    def config(studies: int):
        return step_config("multi_view_s14", studies, TINY)

    some, most = (largest_batch(config, size, TINY) for size in (2**24, 2**40))
    assert 1 <= some < most == 256
    assert some % 8 == 0


def test_a_step_that_does_not_fit_is_tried_with_fewer_studies_in_a_new_process(monkeypatch, capsys):
    commands = []

    def full(*arguments: object) -> None:
        raise TooManyStudiesError(48)

    def replaced(program: str, command: list[str]) -> None:
        commands.append(command)
        raise SystemExit

    monkeypatch.setattr("benchmarks.gpu.rows.run_row", full)
    monkeypatch.setattr(module.os, "execv", replaced)
    monkeypatch.setattr(sys, "argv", ["gpu", "--one", "step multi_view_l14", "--seconds", "60"])
    with pytest.raises(SystemExit):
        main()
    [command] = commands
    assert command[command.index("--one") + 1] == "step multi_view_l14"
    assert command[command.index("--studies") + 1] == "32"
    assert "48 studies do not fit, 32 are tried" in capsys.readouterr().err
    assert [TooManyStudiesError(studies).fewer for studies in (8, 5, 2)] == [4, 2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["matrix product", "embed 224", "neighbors"])
def test_a_row_gives_figures(name):
    *_, figures = work_of(name)(TINY)
    assert figures["rate"] > 0
    if name == "neighbors":
        assert figures["note"].endswith("as on the CPU: True")


@pytest.mark.slow
def test_one_command_measures_rows_and_a_row_that_fails_stops_no_other(tmp_path, monkeypatch, capsys):
    rows = ["step vet_s14 compiled", "step multi_view_b14", "loader"]
    words = ["--device", "cpu", "--tiny", "--rows", *rows, "--out", str(tmp_path / "gpu")]
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", *words])
    main()
    results = json.loads((tmp_path / "gpu" / "gpu.json").read_text())
    failed, step, loader = results["rows"]
    assert results["machine"]["torch"] == torch.__version__
    assert "optim.compile needs a GPU" in failed["error"]
    assert "optim.compile needs a GPU" in capsys.readouterr().out
    assert step["error"] == loader["error"] == ""
    assert step["unit"] == loader["unit"] == "studies/s"
    assert 0 < step["peak_share"] < 1
    assert step["memory_gib"] > 0 < step["predicted_gib"]
    assert loader["rate"] > 0
    assert "studies/s of crops that stay" in loader["note"]


def answering(program: str, monkeypatch, tmp_path, limit: float) -> dict[str, object]:
    """What a row comes to whose process runs this program instead."""
    script = tmp_path / "row.py"
    script.write_text(program)
    popen = module.subprocess.Popen
    monkeypatch.setattr(
        module.subprocess, "Popen", lambda command, **options: popen([sys.executable, str(script)], **options)
    )
    return module.measured("loader", argparse.Namespace(device="cpu", tiny=True), limit)


def test_a_row_that_takes_too_long_keeps_what_it_had(monkeypatch, tmp_path):
    program = 'import time\nprint(\'{"rate": 3.0, "unit": "x"}\', flush=True)\ntime.sleep(60)\n'
    result = answering(program, monkeypatch, tmp_path, 3.0)
    assert result == {"row": "loader", "rate": 3.0, "unit": "x", "error": "stopped after 3 s"}


def test_a_row_that_fails_has_the_reason_in_one_line(monkeypatch, tmp_path):
    result = answering("raise MemoryError('CUDA out\\nof memory')", monkeypatch, tmp_path, 30.0)
    assert result == {"row": "loader", "error": "MemoryError: CUDA out"}
    assert reason("") == ""


def test_rows_for_which_no_time_is_left_are_said_so(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["gpu", "--minutes", "0.1", "--device", "cpu", "--out", str(tmp_path)])
    main()
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [row["row"] for row in rows] == list(ROWS)
    assert {row["error"] for row in rows} == {"not begun: 0.1 minutes are over"}


def test_the_table_holds_figures_and_errors(tmp_path: Path):
    good = {"row": "a", "rate": 1234.5, "unit": "studies/s", "ms": 12.3456, "peak_share": 0.4321, "error": ""}
    results = [good, {"row": "b", "error": "out of | memory"}]
    write(tmp_path, results, {"gpu": "NVIDIA H200", "cores": 16})
    text = (tmp_path / "gpu.md").read_text().splitlines()
    assert text[0] == "gpu NVIDIA H200, cores 16"
    assert text[-2] == "| a | 1234 studies/s | 12.35 | 43.2% |  |  |  |  |"
    assert text[-1] == "| b |  |  |  |  |  |  | out of / memory |"
    with (tmp_path / "gpu.csv").open() as file:
        assert [row["row"] for row in csv.DictReader(file)] == ["a", "b"]
    assert line(good).startswith("a ")
