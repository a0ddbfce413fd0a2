"""A job that says which vetdino runs on each host: `python -m benchmarks.hosts.where` prints host name -> its file."""

from __future__ import annotations

import json


def where() -> tuple[str, str]:
    """Host name, and the file of its vetdino."""
    import socket

    import vetdino

    return socket.gethostname(), str(vetdino.__file__)


def main() -> None:
    """Asks each node that has cores, and the driver."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(log_to_driver=False)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    task = ray.remote(num_cpus=0)(where)
    answers = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n, False)).remote() for n in nodes
    ]
    print(json.dumps(dict([where(), *ray.get(answers)])))


if __name__ == "__main__":
    main()
