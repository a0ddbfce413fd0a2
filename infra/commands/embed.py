"""`vetdino embed BACKBONE SHARDS OUT`: features of every study, view or patch, a Parquet file for each shard."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from tyro.conf import Positional, arg

from ...platform.core.device import DeviceConfig
from ...platform.core.location import Location
from .arguments import BACKBONE, SHARDS, Command

if TYPE_CHECKING:
    from ...platform.data.manifest import Manifest, Shard
    from ...platform.measure.embedding import EmbedJob
    from ...platform.models.backbone import Backbone


@dataclass(frozen=True, kw_only=True)
class Embed(DeviceConfig, Command):
    """Write a backbone's features of each study (or view, or patch) as a Parquet table with the labels."""

    basic: ClassVar = ("level", "dtype", "splits", "batch", "workers", "device")
    backbone: BACKBONE
    shards: SHARDS
    out: Annotated[Positional[Location], arg(metavar="OUT")]
    """Folder for the table: a Parquet file for each shard. A run that was stopped continues there."""
    level: Literal["study", "view", "patch"] = "study"
    """One vector for each study (the mean of its views), one for each view, or the tokens of all patches of each view
    (float16, as the backbone gives them)."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the vectors; float16 halves the table and moves a cosine by some 1e-5."""
    splits: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")
    """Splits to embed."""
    batch: int = 64
    """Views in one pass through the backbone."""
    workers: int = 0
    """Ray actors, each with a GPU where there are any. 0: on a Ray that runs, or beside several GPUs, one for each GPU
    or four cores; else this process embeds alone, without Ray."""

    def run(self) -> Path:
        from ...platform.core.progress import Progress
        from ...platform.measure.embedding import embed_shards, finish_table, missing_parts
        from ...platform.models.loading import load

        manifest = self._checked()
        on_ray = self._uses_ray()
        backbone = load(self.backbone, "cpu" if on_ray else self.device)
        job = self._job(manifest, backbone)
        shards = missing_parts(job)
        if self.level == "patch" and shards:
            _announce_size(job, backbone, shards)
        with Progress("embed", sum(shard.studies for shard in shards)) as progress:
            if shards and on_ray:
                from ...platform.measure.embed_actors import embed_on_ray

                options = (self.device, self.workers, progress.advance, progress.stage)
                embed_on_ray(job, backbone, shards, *options)
            else:
                embed_shards(job, backbone, shards, progress.advance)
        finish_table(job, backbone)
        return self.out.path

    def _checked(self) -> Manifest:
        """The shards' manifest, once the settings are known to be possible."""
        from ...platform.core.errors import ConfigError, DataError
        from ...platform.data.manifest import load_manifest
        from ...platform.measure.extraction import check_extraction

        shards = str(self.shards)
        manifest = load_manifest(shards)
        check_extraction(manifest, shards, self.splits, self.batch)
        if self.workers < 0:
            raise ConfigError(f"workers {self.workers} must not be below 0")
        if self.out.path.is_file():
            raise DataError(f"{self.out} is a file; give a folder for the table")
        return manifest

    def _uses_ray(self) -> bool:
        """Whether actors embed: where a Ray runs, where workers are given, and beside several GPUs."""
        import torch

        from ...platform.core.extras import has_extra
        from ...platform.training.cluster import ray_is_running

        several = self.device != "cpu" and torch.cuda.device_count() > 1 and has_extra("ray")
        return ray_is_running() or self.workers > 0 or several

    def _job(self, manifest: Manifest, backbone: Backbone) -> EmbedJob:
        from ...platform.measure.embedding import EmbedJob
        from ...platform.measure.prefetch import MOST_THREADS

        return EmbedJob(
            shards=str(self.shards.absolute()),
            manifest=manifest,
            splits=self.splits,
            out=self.out.path.resolve(),
            backbone=backbone.card.digest,
            level=self.level,
            dtype="float16" if self.level == "patch" else self.dtype,
            batch=self.batch,
            threads=min(MOST_THREADS, os.cpu_count() or 1),
        )


def _announce_size(job: EmbedJob, backbone: Backbone, shards: list[Shard]) -> None:
    """Prints how large the tokens of these shards will be. Raises DataError where the disk is smaller."""
    import shutil

    from ...platform.core.errors import DataError
    from ...platform.core.log_lines import say
    from ...platform.measure.embedding import patch_bytes

    size = patch_bytes(job, backbone, shards)
    job.out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(job.out).free
    views = sum(shard.views for shard in shards)
    text = (
        f"the patch tokens of {views:,} views take {size / 2**20:,.0f} MiB, {free / 2**20:,.0f} MiB are free"
    )
    if size > free:
        raise DataError(f"{job.out}: {text}; choose another disk, or --level view")
    say(text)
