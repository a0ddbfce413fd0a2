"""`python tests/pretrain/kill_matrix.py OUT [SEED]`: kill -9 at five random steps, ZeRO 0-3, one worker and two.

Each cell trains once undisturbed and once killed five times and gone on with, then compares everything that is
left: weights, moments, teacher, centres, record and the order of the studies. It is no test since it takes a
quarter of an hour; tests/pretrain/test_loop.py breaks a training off in-process, test_job.py kills Ray's workers.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.pretrain.conftest import tiny_of, write_shards
from tests.pretrain.left import record, weights

STEPS, KILLS = 24, 5

EXACT = {
    "backbone.drop_path": 0.3,
    "distill.patch_weight": 1.0,
    "distill.spread_weight": 0.1,
    "distill.spread_head": True,
}
"""All that draws at random or remembers something."""


def work(out: Path, shards: Path, zero: int, fatal: int) -> None:
    """One worker: trains, and dies with the step `fatal`, if there is one."""
    import torch
    import torch.distributed as dist

    from vetdino.platform.core.config import to_json
    from vetdino.platform.training.cluster import WorkerContext
    from vetdino.pretrain import loop

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    worker = WorkerContext(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))
    config = tiny_of(shards, out, EXACT | {"optim.zero": zero}, steps=STEPS, checkpoint_every=3, keep=2)
    if worker.rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(to_json(config))

    def report(step: int, values: object) -> None:
        if step == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    loop.train(config, worker, report)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # as in launched.py


def launch(out: Path, shards: Path, zero: int, workers: int, fatal: int = 0) -> None:
    """A whole training, or one that is killed at a step."""
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
    done = subprocess.run(
        [sys.executable, *run, __file__, "--work", str(out), str(shards), str(zero), str(fatal)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": "nowhere://"},
        capture_output=True,
        text=True,
    )
    if bool(done.returncode) != bool(fatal):
        raise SystemExit(f"{out}: exit code {done.returncode}\n{done.stderr[-3000:]}")


def cell(folder: Path, shards: Path, zero: int, workers: int, seed: int) -> str:
    """One cell of the matrix: where it was killed, and whether everything is the same."""
    fatal = sorted(random.Random(f"{seed}/{zero}/{workers}").sample(range(2, STEPS), KILLS))
    whole, killed = (folder / f"zero{zero}_workers{workers}_{name}" for name in ("whole", "killed"))
    launch(whole, shards, zero, workers)
    for step in fatal:
        launch(killed, shards, zero, workers, step)
    launch(killed, shards, zero, workers)
    one, two = weights(whole, STEPS), weights(killed, STEPS)
    same = one.keys() == two.keys() and all(one[key].equal(two[key]) for key in one)
    alike = record(whole) == record(killed)
    steps = ", ".join(map(str, fatal))
    verdict = "bit for bit" if same and alike else f"DIFFERS (weights {same}, record {alike})"
    return f"| {zero} | {workers} | {steps} | {len(one)} | {verdict} |"


def main() -> int:
    out, seed = Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    out.mkdir(parents=True)
    (out / "shards").mkdir()
    shards = write_shards(out / "shards")
    print("| ZeRO | workers | killed at steps | tensors compared | |\n| --- | --- | --- | --- | --- |")
    rows = []
    for zero in range(4):
        for workers in (1, 2):
            rows.append(cell(out, shards, zero, workers, seed))
            print(rows[-1], flush=True)
    return int(any("DIFFERS" in row for row in rows))


if __name__ == "__main__":
    if sys.argv[1] == "--work":
        work(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    else:
        sys.exit(main())
