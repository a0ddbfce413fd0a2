"""The engine of one process: backbones loaded, galleries opened and compared with them, decoding processes started."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...platform.core.errors import ConfigError
from ...platform.core.location import Location
from ...platform.ingest.workers import check_temporary_folder
from ...platform.measure.descriptors import Descriptor
from ...platform.training.cluster import ray_is_running
from ..config import ServiceConfig
from ..gallery.gallery import check_digest, open_version
from ..studies import StudyBrowser
from .decoding import UploadDecoder
from .engine import ServiceEngine
from .index import IndexPort, LocalIndex
from .model import LocalModel, check_side, load_backbones
from .runs import ShownRuns

if TYPE_CHECKING:
    from ...platform.models.backbone import Backbone
    from ..gallery.manifest import GalleryManifest


def open_engine(config: ServiceConfig, backbones: Sequence[Backbone] | None = None) -> ServiceEngine:
    """The engine, ready to answer. backbones: those of the config where they are loaded already.

    Raises ConfigError, CheckpointError, ShardError, and GalleryError where a gallery is damaged or of another backbone
    than the one it is given for.
    """
    check_numbers(config)
    check_ray(config)
    check_temporary_folder()
    browser = open_browser(config)
    backbones = load_backbones(config) if backbones is None else backbones
    for backbone in backbones:
        check_side(config.side or backbone.side, backbone)
    descriptors = [descriptor_for(config, number, backbone) for number, backbone in enumerate(backbones)]
    indexes: list[IndexPort | None] = [
        LocalIndex(Location(bundle).path, shards=config.gallery_shards) for bundle in config.galleries
    ]
    models = [
        LocalModel(backbone, descriptor, config)
        for backbone, descriptor in zip(backbones, descriptors, strict=True)
    ]
    engine = ServiceEngine(config, models, indexes, UploadDecoder(config), browser)
    try:
        for number in range(len(models)):
            asyncio.run(engine.check(number))
    except BaseException:
        engine.close()
        raise
    return engine


def check_numbers(config: ServiceConfig) -> None:
    """Raises ConfigError where settings contradict."""
    if len(config.galleries) > len(config.backbones):
        raise ConfigError(
            f"{len(config.galleries)} galleries for {len(config.backbones)} backbones; give the i-th gallery for the "
            "i-th backbone"
        )
    if config.runs:
        ShownRuns(config.runs.path)
    limits = config.limits
    for name, room in (("queue", limits.queue), ("decode_queue", limits.decode_queue)):
        if limits.files > room:
            raise ConfigError(f"limits.{name} {room} must be at least limits.files {limits.files}")


def check_ray(config: ServiceConfig) -> None:
    """Raises ConfigError where galleries shall be divided and no Ray runs."""
    if config.gallery_shards > 1 and not ray_is_running():
        raise ConfigError(
            f"gallery_shards {config.gallery_shards} divides galleries among actors of a Ray that runs, and none does; "
            "start one and set RAY_ADDRESS, write a config for Ray Serve with --ray-config, or leave it at 1"
        )


def open_browser(config: ServiceConfig) -> StudyBrowser | None:
    """The shards to look at, if there are any."""
    return None if config.shards is None else StudyBrowser(str(config.shards), config.split, config.limit)


def descriptor_for(config: ServiceConfig, number: int, backbone: Backbone) -> Descriptor:
    """What the number-th gallery's vectors were made by; of a backbone without gallery, the default.

    Raises GalleryError where the gallery is of another backbone.
    """
    if number >= len(config.galleries):
        return Descriptor()
    bundle = Location(config.galleries[number]).path

    def checked(_: Path, manifest: GalleryManifest) -> Descriptor:
        return check_digest(bundle, manifest, backbone.card.digest)

    return open_version(bundle, checked)
