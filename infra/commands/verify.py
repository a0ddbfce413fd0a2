"""`vetdino verify SHARDS`: are the shards what was written?"""

from __future__ import annotations

from dataclasses import dataclass

from .arguments import SHARDS, Command


@dataclass(frozen=True, kw_only=True)
class Verify(Command):
    """Compare every shard with its manifest and its index; an error names the shards and studies that changed."""

    shards: SHARDS

    def run(self) -> None:
        from ...platform.data.checksums import verify

        manifest = verify(str(self.shards))
        studies = sum(shard.studies for shard in manifest.shards)
        print(f"{len(manifest.shards)} shards, {studies:,} studies: all as they were written")
