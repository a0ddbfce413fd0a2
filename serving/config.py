"""Settings of the service and of the page that it serves; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from ..platform.core.device import DeviceConfig
from ..platform.core.errors import ConfigError
from ..platform.core.location import Location
from ..platform.data.config import ShardConfig
from ..platform.dicom.config import DicomConfig

HOST = "127.0.0.1"
"""The address served without tokens: the service is then for the person at this machine."""

RANDOM = "random"
"""Name, among the backbones, of the first backbone's architecture with random weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one request may take, and how much the service keeps; GET /v1/info tells all of them."""

    body_mib: int = 256
    """Bytes of a request's body, in MiB."""
    json_mib: int = 64
    """Bytes of a JSON body, in MiB; send many vectors as .npy."""
    inflight_mib: int = 1024
    """Bytes of all bodies that are being received or decoded, in MiB; 503 above."""
    files: int = 32
    """Files of one request."""
    megapixels: float = 100.0
    """Pixels of one image, in millions, by its header, before it is decoded."""
    decode_gib: float = 2.0
    """Memory in GiB that a decoding process may take beyond what it has at its start."""
    decode_s: float = 30.0
    """Seconds that a file may take to decode; its process is killed then."""
    decode_queue: int = 128
    """Files that wait for a decoding process; 503 above."""
    body_s: float = 60.0
    """Seconds in which a request's headers, and then its body, must arrive."""
    inference_s: float = 60.0
    """Seconds that a request may wait for a decoding process, for the backbone and for the gallery each; 503 after."""
    queue: int = 256
    """Views that wait for a backbone; 503 above."""
    concurrency: int = 64
    """Requests at a time with one token (or from all who have none); 429 above."""
    k: int = 1000
    """Matches of one query."""
    vectors: int = 1024
    """Query vectors of one request, and rows of one addition to a gallery."""
    json_numbers: int = 200_000
    """Numbers in a JSON answer; more are given as application/x-npy only."""
    encoded_mib: int = 512
    """Bytes of the patch tokens and attention of views looked at last, which are kept, in MiB."""
    uploads: int = 256
    """Studies that are kept for the page; the oldest goes when another comes."""
    uploads_mib: int = 1024
    """Bytes of the studies kept, in MiB."""
    upload_minutes: float = 30.0
    """Minutes after which an uploaded study is deleted."""

    def __post_init__(self) -> None:
        for setting in fields(self):
            if getattr(self, setting.name) <= 0:
                raise ConfigError(
                    f"limits.{setting.name} is {getattr(self, setting.name)}; it must be above 0"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceConfig(DeviceConfig):
    """What is served, to whom, and within which limits."""

    backbones: tuple[str | Path, ...]
    """Backbone folders (or other sources, see `vetdino embed`); `random` is the first one's architecture with random
    weights. Requests name one by its number."""
    galleries: tuple[Location, ...] = ()
    """Galleries that `vetdino index build` made, the i-th of the i-th backbone's vectors."""
    gallery_shards: int = 1
    """Parts that each gallery is divided into, one for each of as many actors of the Ray that runs; 1: none, no Ray.
    Above 1, Ray must run (`--ray-config`, or RAY_ADDRESS)."""
    shards: Location | None = None
    """Folder of shards whose studies can be looked at."""
    split: Literal["train", "val", "test"] = "test"
    """Split of the shards whose studies are listed."""
    limit: int | None = None
    """List only the first so many studies of the split; None lists all."""
    runs: Location | None = None
    """Folder whose zero-shot and few-shot runs are shown, those in folders below it too; None shows none."""
    side: int | None = None
    """Side of the square input image in pixels for patches and attention, a multiple of every backbone's patch size;
    larger than in training gives a finer grid of patches. None: the backbone's own."""
    read_only: bool = False
    """Refuse changes of galleries, whatever the token. Always so where a gallery is at a URL: what is served of it is a
    copy."""
    batch: int = 32
    """Most views in one pass through a backbone."""
    wait_ms: float = 3.0
    """Milliseconds that a view waits for others to share its pass."""
    decoders: int = 2
    """Processes that decode uploads."""
    limits: Limits = field(default_factory=Limits)
    dicom: DicomConfig = field(default_factory=DicomConfig)
    stored: ShardConfig = field(default_factory=ShardConfig)


@dataclass(frozen=True, kw_only=True)  # no slots: a command has it as its second base
class ListenConfig:
    """Where the service listens, and who may use it."""

    host: str = HOST
    """Address to listen on; another than 127.0.0.1 needs tokens."""
    port: int = 8600
    """TCP port."""
    tokens: Path | None = None
    """File of bearer tokens, a line each: `read TOKEN` or `admin TOKEN`. None: those in VETDINO_READ_TOKEN and
    VETDINO_ADMIN_TOKEN; without any, this machine may read and nobody may change a gallery."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AppConfig(DeviceConfig):
    """What the app shows, and on which port."""

    shards: Location
    """Folder of shards from `vetdino ingest`."""
    backbones: tuple[str | Path, ...]
    """Backbone folders (or other sources, see `vetdino embed`) in the order of the buttons; `random` is the first one's
    architecture with random weights."""
    features: tuple[Location, ...] = ()
    """Study-level feature tables, or galleries that `vetdino index` built, the i-th from the i-th backbone; features
    that are not given are computed."""
    split: Literal["train", "val", "test"] = "test"
    """Split whose studies can be opened."""
    limit: int | None = None
    """Show only the first so many studies of the split; None shows all."""
    runs: Location | None = None
    """Folder whose zero-shot and few-shot runs are shown, those in folders below it too; None shows none."""
    port: int = 7860
    """TCP port on 127.0.0.1."""
    side: int | None = None
    """Side of the square input image in pixels, a multiple of every backbone's patch size; larger than in training
    gives a finer grid of patches. None: the backbone's own."""
