"""`python -m benchmarks.plan`: predicted memory and step time against the engine that trains, on one CPU thread."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.plan.engine import engine_step, one_worker, random_batch
from benchmarks.step.measure import peak_memory
from vetdino.pretrain.config import PretrainConfig
from vetdino.pretrain.distillation.config import HeadConfig
from vetdino.pretrain.planning.config import PlanConfig
from vetdino.pretrain.planning.hardware import this_machine
from vetdino.pretrain.planning.plan import training_plan
from vetdino.pretrain.recipes import recipe

MIB, CPU = 2**20, torch.device("cpu")

CASES = ("small/16", "small/16/bfloat16", "vet_s14_small/4", "vet_s14_small/8/micro", "vet_s14_small/8/again")
"""RECIPE/STUDIES, then bfloat16 instead of float32, half the studies in a micro-batch, or blocks computed twice."""


def main() -> None:
    """Measure each case in a process of its own, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--steps", type=int, default=4, help="the first is not timed")
    parser.add_argument("--out", type=Path, help="results as JSON")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.one:
        print(json.dumps(measured(case_config(args.one), args.steps)))
        return
    results = {}
    print(f"{'case':<26}{'memory, MiB':>24}{'seconds a step':>24}")
    print(f"{'':<26}" + 2 * f"{'predicted measured':>20}{'':>1}{'':>3}")
    for case in args.cases:
        results[case] = one = compared(case, args.steps)
        cells = "".join(
            f"{one['predicted'][name]:>10.{digits}f}{one['measured'][name]:>9.{digits}f}{one['error'][name]:>+6.0%}"
            for name, digits in (("memory_mib", 0), ("seconds", 2))
        )
        print(f"{case:<26}{cells}", flush=True)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


def case_config(case: str) -> PretrainConfig:
    """The settings of a case, see CASES; without stochastic depth, whose work differs from step to step."""
    name, studies, *options = case.split("/")
    config, batch = recipe(name), int(studies)
    optim = replace(
        config.optim,
        zero=0,
        precision="bfloat16" if "bfloat16" in options else "float32",
        micro_batch=batch // 2 if "micro" in options else 0,
        checkpoint_activations="again" in options,
    )
    return replace(config, batch=batch, workers=1, optim=optim, start="")


def compared(case: str, steps: int) -> dict[str, Any]:
    """Prediction, measurement and relative error; memory without what Python and its libraries take before."""
    command = [sys.executable, "-m", "benchmarks.plan", "--steps", str(steps), "--one", case]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    plan = training_plan(case_config(case), PlanConfig(gpu="cpu", gpus=1))
    predicted = {
        "memory_mib": (plan.memory[0].total - plan.memory[0].reserved) / MIB,
        # The other process's own matrix product: the speed of a shared core changes by the minute.
        "seconds": plan.step_seconds * plan.hardware.peak(plan.config.optim.precision) / found["peak"],
    }
    error = {name: value / found[name] - 1 for name, value in predicted.items()}
    return {"predicted": predicted, "measured": found, "error": error}


def measured(config: PretrainConfig, steps: int) -> dict[str, float]:
    """Memory above that before the network, and median processor seconds of a step, of the engine that trains."""
    torch.manual_seed(0)
    with one_worker(CPU):
        peak = this_machine(1).peak(config.optim.precision)
        # What libraries take for themselves when they are first used is not the training's.
        optim = replace(config.optim, micro_batch=0)
        small = replace(config.backbone, width=48, depth=1, heads=3)
        head = HeadConfig(prototypes=16, hidden=16, bottleneck=16)
        _steps(
            replace(config, backbone=small, batch=2, distill=replace(config.distill, head=head), optim=optim),
            1,
        )
        before = peak_memory(CPU)
        seconds = _steps(config, steps)
        memory = (peak_memory(CPU) - before) / MIB
    return {"memory_mib": memory, "seconds": median(seconds[1:] or seconds), "peak": peak or 0.0}


def _steps(config: PretrainConfig, steps: int) -> list[float]:
    """Processor seconds of each step."""
    step, batch, seconds = engine_step(config, steps, CPU), random_batch(config), []
    for number in range(steps):
        began = time.process_time()
        step(number, batch)
        seconds.append(time.process_time() - began)
    return seconds


if __name__ == "__main__":
    main()
