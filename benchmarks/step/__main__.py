"""`python -m benchmarks.step`: both contestants in turns in one process, as a table and as JSON."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .compare import compare
from .contestants import CONTESTANTS
from .measure import peak_memory
from .settings import SETTINGS, random_batch
from .table import table

PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    """Measure as the command line asks, print a table and write the results."""
    args = _parse_args()
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(json.dumps(_memory_here(args, device)))
        return
    results: dict[str, Any] = {"machine": _machine(args, device), "settings": {}}
    for name in args.setting:
        results["settings"][name] = measured = []
        for studies in _doubling(args.studies) if args.sweep else [args.studies]:
            try:
                result = compare(SETTINGS[name], studies, args.precision, args.rounds, device)
            except torch.OutOfMemoryError:
                print(f"\n{name}: {studies} studies do not fit into GPU memory")
                break
            for label, step in result["steps"].items():
                step["memory"] = _memory_of(args, name, studies, label)
            measured.append(result)
            print("\n" + table(name, result))
            args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(args.out)


def _memory_of(args: argparse.Namespace, name: str, studies: int, label: str) -> dict[str, int]:
    """Peak memory of one contestant, in a process of its own that runs two steps."""
    flags = ["--setting", name, "--studies", str(studies), "--threads", str(args.threads)]
    command = [
        sys.executable,
        "-m",
        "benchmarks.step",
        "--memory-of",
        label,
        "--device",
        args.device,
        *flags,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _memory_here(args: argparse.Namespace, device: torch.device) -> dict[str, int]:
    who, precision = args.memory_of.split()
    setting = SETTINGS[args.setting[0]]
    contestant = CONTESTANTS[who](setting, random_batch(setting, args.studies), device)
    before = peak_memory(device)
    for _ in range(2):
        contestant(precision)
    return {"before_first_step": before, "peak": peak_memory(device)}


def _machine(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    import timm

    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "gpu": gpu,
        "cpu": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": args.threads,
        "cores": os.cpu_count(),
        "load_before": os.getloadavg(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "lightly": version("lightly"),
        "rounds": args.rounds,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _doubling(most: int) -> list[int]:
    """1, 2, 4 … up to `most`."""
    counts = [1]
    while counts[-1] * 2 <= most:
        counts.append(counts[-1] * 2)
    return counts


def _parse_args() -> argparse.Namespace:
    # argparse: a bare GPU machine has torch and timm, and perhaps nothing else.
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--setting", nargs="+", choices=SETTINGS, default=["dino_s16", "vetdino_s14"])
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--studies", type=int, default=4, help="studies per step")
    parser.add_argument("--sweep", action="store_true", help="1, 2, 4 … studies, up to --studies")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds, after one warm-up round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=Path("step.json"), help="file for the results")
    parser.add_argument("--memory-of", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
