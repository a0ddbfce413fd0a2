"""`python -m benchmarks.network`: bytes that two workers send in a step under each ZeRO stage, against `vetdino plan`.

The workers are two processes over gloo. They run in a network namespace of their own, so that the loopback interface
counts their bytes and no others: Linux, root, `unshare` and `ip`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.plan.__main__ import MIB
from benchmarks.plan.engine import engine_step, random_batch
from benchmarks.step.measure import peak_memory
from vetdino.pretrain.config import PretrainConfig
from vetdino.pretrain.distillation.deepspeed_adapter import prepare_deepspeed
from vetdino.pretrain.planning.config import PlanConfig
from vetdino.pretrain.planning.plan import training_plan
from vetdino.pretrain.recipes import recipe

CPU, WORKERS, STEPS = torch.device("cpu"), 2, 2


def main() -> None:
    """Measure each stage in processes of its own, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="vet_s14_small")
    parser.add_argument("--studies", type=int, default=4, help="of a step, over both workers")
    parser.add_argument("--micro", action="store_true", help="half of a worker's studies in a micro-batch")
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--out", type=Path, help="results as JSON")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank is not None:
        found = measured(
            case_config(args.recipe, args.studies, args.micro, args.stages[0]), args.rank, args.store
        )
        print(json.dumps(found))
        return
    if os.geteuid() or not (shutil.which("unshare") and shutil.which("ip")):
        sys.exit("benchmarks.network makes a network namespace, which needs Linux, root, `unshare` and `ip`")
    results = {}
    print(f"{'ZeRO':<6}{'sent a step and worker, MB':>34}{'most memory of a worker, MiB':>32}")
    for stage in args.stages:
        results[stage] = one = compared(args, stage)
        sent = f"{one['predicted_mb']:.1f} planned, {one['sent_mb']:.1f} sent"
        print(f"{stage:<6}{sent:>34}{one['memory_mib']:>32.0f}", flush=True)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


def case_config(name: str, studies: int, micro: bool, stage: int) -> PretrainConfig:
    """A recipe on two workers under one ZeRO stage, in float32."""
    config = recipe(name)
    size = studies // WORKERS // 2 if micro else 0
    optim = replace(config.optim, zero=stage, precision="float32", micro_batch=size)
    return replace(config, batch=studies, workers=WORKERS, optim=optim, start="")


def compared(args: argparse.Namespace, stage: int) -> dict[str, float]:
    """What the plan says and what was measured, in a namespace of its own."""
    words = ["--recipe", args.recipe, "--studies", str(args.studies), "--stages", str(stage)]
    command = [sys.executable, "-m", "benchmarks.network", *words, *["--micro"] * args.micro]
    with tempfile.TemporaryDirectory() as folder:
        script = f"{shlex.join(command)} --store {folder}/store --rank"
        # Both in one namespace: the second in the background, the shell's last word is the first one's.
        both = f"ip link set lo up; {script} 1 > {folder}/other & {script} 0 && wait"
        done = subprocess.run(
            ["unshare", "--net", "sh", "-c", both], stdout=subprocess.PIPE, text=True, check=True
        )
        printed = [done.stdout, Path(folder, "other").read_text()]
    found = [json.loads(text.splitlines()[-1]) for text in printed]
    plan = training_plan(
        case_config(args.recipe, args.studies, args.micro, stage), PlanConfig(gpu="cpu", gpus=WORKERS)
    )
    most = {name: max(one[name] for one in found) for name in found[0]}
    return most | {"predicted_mb": plan.sent / 1e6}


def measured(config: PretrainConfig, rank: int, store: str) -> dict[str, float]:
    """Of one worker: megabytes sent in the last of the steps, and most memory above that before the network."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORKERS)}
    prepare_deepspeed(CPU)
    dist.init_process_group("gloo", store=dist.FileStore(store, WORKERS), rank=rank, world_size=WORKERS)
    torch.manual_seed(0)
    before = peak_memory(CPU)
    step, batch = (
        engine_step(config, STEPS, CPU),
        random_batch(replace(config, batch=config.batch // WORKERS)),
    )
    for number in range(STEPS):
        dist.barrier()
        sent = _sent()
        step(number, batch)
        dist.barrier()
    found = {"sent_mb": (_sent() - sent) / WORKERS / 1e6, "memory_mib": (peak_memory(CPU) - before) / MIB}
    dist.barrier()
    dist.destroy_process_group()
    return found


def _sent() -> int:
    """Bytes that went over the loopback interface since the namespace was made."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    [counts] = [line.split(":")[1].split() for line in lines if line.strip().startswith("lo:")]
    return int(counts[8])


if __name__ == "__main__":
    main()
