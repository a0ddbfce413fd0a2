"""The labels of a split without its pictures: a pass over the tars that reads the JSON of each study alone."""

from __future__ import annotations

import json
import math
import tarfile
from collections.abc import Iterator
from pathlib import Path

import fsspec

from ..core.errors import ShardError
from .manifest import load_manifest, open_shard
from .samples import not_a_tar
from .study import Study


def studies_without_views(folder: str | Path, split: str) -> Iterator[Study]:
    """The studies of one split in the order of `shards.read`, without their views.

    Raises ShardError where a shard is missing, cut, holds another number of studies than promised, or its JSON is
    damaged.
    """
    files, root = fsspec.core.url_to_fs(str(folder))
    for shard in load_manifest(folder).of(split):
        path, count = f"{root}/{shard.path}", 0
        with open_shard(files, path) as file:
            try:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    for header in tar:
                        content = tar.extractfile(header) if header.name.endswith(".json") else None
                        if content is not None:
                            count += 1
                            yield _without_views(content.read(), f"{path}: study {count} of {shard.studies}")
            except tarfile.TarError as error:
                raise not_a_tar(path, error) from None
        if count != shard.studies:
            raise ShardError(f"{path}: {count} studies, the manifest promises {shard.studies}; ingest again")


def _without_views(content: bytes, place: str) -> Study:
    try:
        record = json.loads(content)
        labels = {
            name: math.nan if value is None else float(value) for name, value in record["labels"].items()
        }
        return Study(
            key=record["key"], patient=record["patient"], split=record["split"], labels=labels, views=()
        )
    except (KeyError, ValueError, TypeError, AttributeError):
        raise ShardError(f"{place}: its JSON is damaged; ingest again") from None
