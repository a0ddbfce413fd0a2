"""What `vetdino doctor` knows of a machine: plain values, so that a node can send them and a test can make them up.

Nodes of a cluster that lack vetdino get this module from the driver, so it imports the standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

RAY_FOLDER = "Ray's folder"
"""Name of the folder of Ray's sessions."""


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """One GPU as torch sees it."""

    name: str
    memory: int
    """Bytes."""
    capability: tuple[int, int]
    """CUDA's compute capability."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CudaFacts:
    """NVIDIA's cards, their driver, and what torch makes of them."""

    cards: int = 0
    """Cards of NVIDIA on the PCI bus."""
    driver: str = ""
    """Version of the driver; empty where none answers."""
    driver_cuda: tuple[int, int] | None = None
    """Newest CUDA that the driver runs."""
    visible: str | None = None
    """CUDA_VISIBLE_DEVICES."""
    torch_cuda: str | None = None
    """CUDA that torch was built for; None: a torch for CPUs, or none that can be imported."""
    architectures: tuple[str, ...] = ()
    """What torch's kernels were compiled for, as `sm_90`."""
    gpus: tuple[GpuFacts, ...] = ()
    error: str = ""
    """Why torch cannot be imported or does not start CUDA, in its words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderFacts:
    """A folder that is written to or read."""

    name: str
    """The setting or use, as `--out`."""
    path: str
    written: bool
    """Whether it must be writable."""
    existing: str = ""
    """The folder itself or the nearest above it that exists."""
    total: int = 0
    """Bytes of its disk."""
    free: int = 0
    """Bytes that this user may still write there."""
    error: str = ""
    """Why it cannot be used; empty where it can."""
    clock: tuple[float, float] | None = None
    """Bounds of what the disk's clock is ahead of the machine's, in seconds; None where nothing was written."""
    content: str = ""
    """A hash of `manifest.json`, by which a node sees whether it reads the same shards; empty where there is none."""
    marked: bool | None = None
    """Whether the file that the driver left there is seen; None where no file was looked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RayFacts:
    """How Ray would be reached from here."""

    address: str = ""
    """RAY_ADDRESS."""
    answers: bool | None = None
    """Whether something accepts connections there; None where there is no host to ask."""
    local: str = ""
    """Address of the Ray that was started last on this machine; empty where it does not answer."""
    mode: str = ""
    """RAY_AUTH_MODE."""
    token: str = ""
    """Where a token was found (not the token); empty where none was."""
    folder: str = ""
    """Folder of Ray's sessions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineFacts:
    """One machine. None and empty values are unknown; `failures` says why where an attempt failed."""

    host: str = ""
    address: str = ""
    python: str = ""
    vetdino: str = ""
    """Version of the vetdino that can be imported; empty where there is none."""
    packages: dict[str, str] = field(default_factory=dict)
    """Normalized name of each installed distribution -> version."""
    cuda: CudaFacts | None = None
    cores: int | None = None
    """Cores of the machine."""
    usable_cores: float | None = None
    """Cores that this process may use: affinity and the container's limit."""
    memory: int | None = None
    """Bytes of the machine."""
    memory_limit: int | None = None
    """Bytes that the container may use; None where it has no limit."""
    memory_free: int | None = None
    """Bytes available of the machine."""
    shared_memory: tuple[int, int] | None = None
    """Bytes of /dev/shm: all, free."""
    open_files: tuple[int, int] | None = None
    """Soft and hard limit of open files of a process."""
    folders: tuple[FolderFacts, ...] = ()
    ports: dict[int, bool] = field(default_factory=dict)
    """Port of 127.0.0.1 -> whether it is taken."""
    ray: RayFacts | None = None
    clock: float | None = None
    """Seconds since 1970."""
    failures: dict[str, str] = field(default_factory=dict)
    """What could not be found out -> why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inquiry:
    """Folders and ports that are looked at besides the machine."""

    folders: tuple[tuple[str, str, bool], ...] = ()
    """Setting or use, absolute path, whether it is written."""
    ports: tuple[int, ...] = ()
    mark: str = ""
    """Name of the file by which a node sees that a folder is the driver's."""
    seconds: float = 30.0
    """After which an answer is no longer waited for, as of a disk that hangs."""
