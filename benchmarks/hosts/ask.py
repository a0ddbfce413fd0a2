"""Asks a service from another host: `python -m benchmarks.hosts.ask URL STUDY…`, each study a folder of DICOM files."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from urllib.request import urlopen

from vetdino.client import Client


def main(url: str, *studies: str) -> None:
    """Prints JSON: whether the service is ready; of each study the vector's length, the best match and its score."""
    with urlopen(f"{url}/health/ready", timeout=30) as answer:
        ready = answer.status == 200
    found = []
    with Client(url, token=os.environ["VETDINO_READ_TOKEN"]) as client:
        for study in studies:
            vectors = client.embed_study(sorted(Path(study).rglob("*.dcm"))).vectors
            [best] = client.search(vectors, k=1).matches[0]
            found.append({"dimensions": vectors.shape[-1], "key": best.key, "score": best.score})
    print(json.dumps({"ready": ready, "studies": found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
