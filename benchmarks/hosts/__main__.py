"""A cluster of three hosts on one machine, disturbed: what docs/cluster.md says, as a table of claims that hold or not.

    python -m benchmarks.hosts --out hosts

`benchmarks/README.md` explains it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from . import steps
from .network import HostsError, network
from .stack import Cluster, StepError, cluster
from .table import Claim, Table


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 where every claim holds."""
    parser = argparse.ArgumentParser(description="vetdino on three hosts that fail")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for hosts.md, hosts.json and all logs"
    )
    parser.add_argument(
        "--steps", nargs="+", choices=[step.__name__ for step in steps.ALL], help="only these"
    )
    options = parser.parse_args(arguments)
    logs = options.out.absolute() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    table = Table(options.out)
    # A short path: there are sockets in it. Each server's own user passes through it.
    with tempfile.TemporaryDirectory(prefix="vdh", dir="/tmp") as folder:
        work = Path(folder)
        work.chmod(0o755)
        try:
            began = time.monotonic()
            with network(), cluster(work, logs) as stack:
                os.environ.update(stack.environment())
                seconds = time.monotonic() - began
                table.add(
                    Claim("up", "Ray, MLflow, PostgreSQL and the store answer", "3 hosts", True, seconds)
                )
                for step in steps.ALL:
                    if not options.steps or step.__name__ in options.steps:
                        run_step(step, stack, table)
        except (HostsError, StepError) as error:
            print(f"benchmarks.hosts: {error}", file=sys.stderr)
            return 1
    return 0 if table.held else 1


def run_step(step: steps.Step, stack: Cluster, table: Table) -> None:
    """All claims of a step; where it breaks off, that is one that does not hold, and the next steps are not tried."""
    began = time.monotonic()
    name = step.__name__
    try:
        for claim, figure, held in step(stack):
            table.add(Claim(name, claim, figure, held, time.monotonic() - began))
    except StepError as error:
        first = str(error).partition("\n")[0]
        table.add(Claim(name, "the step comes to its end", first, False, time.monotonic() - began))
        raise


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    sys.exit(main())
