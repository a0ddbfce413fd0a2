"""What shards say of their studies, without decoding a picture: the JSON of each sample, and chosen files of it."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import ShardError
from ..core.storage import filesystem
from .manifest import Manifest, open_shard

Record = dict[str, Any]


def study_records(
    folder: str | Path, manifest: Manifest, choose: Callable[[Record], Collection[str]] | None = None
) -> Iterator[tuple[Record, Mapping[str, bytes]]]:
    """(JSON, chosen files) of each study, shard after shard; other pictures are passed over, not read.

    choose: the `file` names of a record's views whose bytes are wanted; none without it. Raises ShardError.
    """
    files, root = filesystem(folder)
    for shard in manifest.shards:
        path = f"{root}/{shard.path}"
        record: Record | None = None
        chosen: dict[str, bytes] = {}
        wanted: Collection[str] = ()
        with open_shard(files, path) as file:
            try:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    for header in tar:
                        name = header.name.partition(".")[2]
                        if name == "json":
                            if record is not None:
                                yield record, chosen
                            content = tar.extractfile(header)
                            assert content is not None, "a sample's JSON is a regular file"
                            record, chosen = json.loads(content.read()), {}
                            wanted = choose(record) if choose is not None else ()
                        elif name in wanted and (picture := tar.extractfile(header)) is not None:
                            chosen[name] = picture.read()
                        vars(tar)["members"].clear()  # tarfile remembers every header
            except (tarfile.TarError, ValueError) as error:
                raise ShardError(f"{path}: not a whole tar ({error}); ingest again") from None
        if record is not None:
            yield record, chosen
