"""Facts of the machine that this runs on. Nothing here judges, and nothing fails: what cannot be found out is said so.

Nodes of a cluster that lack vetdino get this module from the driver, so it imports `facts` and the standard library
only.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import resource
import shutil
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .facts import RAY_FOLDER, CudaFacts, FolderFacts, GpuFacts, Inquiry, MachineFacts, RayFacts

NVIDIA = "0x10de"
"""Vendor number on the PCI bus."""


def gather(inquiry: Inquiry) -> MachineFacts:
    """All facts of this machine; what does not answer within `inquiry.seconds` is among the failures."""
    probes: dict[str, Callable[[], dict[str, Any]]] = {
        "host": _host,
        "packages": _packages,
        "GPUs": lambda: {"cuda": cuda_facts()},
        "cores": lambda: cores(),
        "memory": lambda: memory(),
        "shared memory": _shared_memory,
        "open files": lambda: {"open_files": resource.getrlimit(resource.RLIMIT_NOFILE)},
        "ports": lambda: {"ports": {port: is_taken(port) for port in inquiry.ports}},
        "Ray": lambda: {"ray": ray_facts()},
        "clock": lambda: {"clock": time.time()},
    }
    folders: dict[str, Callable[[], dict[str, Any]]] = {
        f"{name} {path}": lambda name=name, path=path, written=written: {  # type: ignore[misc]
            "folder": folder_facts(name, path, written, inquiry.mark)
        }
        for name, path, written in (*inquiry.folders, *own_folders())
    }
    values, failures = answers(probes | folders, inquiry.seconds)
    found = tuple(values[name]["folder"] for name in folders if name in values)
    facts = {key: value for name in probes for key, value in values.get(name, {}).items()}
    return MachineFacts(**facts, folders=found, failures=failures)


def answers(
    probes: dict[str, Callable[[], dict[str, Any]]], seconds: float
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Name -> what each probe returned, and name -> why it did not; all run at once, each in a thread of its own."""
    values: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}

    def run(name: str, probe: Callable[[], dict[str, Any]]) -> None:
        try:
            values[name] = probe()
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"

    threads = {
        name: threading.Thread(target=run, args=(name, probe), daemon=True) for name, probe in probes.items()
    }
    deadline = time.monotonic() + seconds
    for thread in threads.values():
        thread.start()
    for name, thread in threads.items():
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            failures[name] = f"no answer within {seconds:g} s"
    return dict(values), dict(failures)


def _host() -> dict[str, Any]:
    version = import_module("vetdino").__version__ if find_spec("vetdino") else ""
    return {"host": socket.gethostname(), "python": platform.python_version(), "vetdino": version}


def _packages() -> dict[str, Any]:
    installed: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # a folder that an interrupted pip left has none
            installed.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
    return {"packages": installed}


# GPUs ------------------------------------------------------------------------------------------------------


def cuda_facts(root: Path = Path("/")) -> CudaFacts | None:
    """NVIDIA's cards; None on a machine without any card or driver, where torch need not be imported."""
    cards = nvidia_cards(root)
    driver_cuda = _driver_cuda()
    if not cards and driver_cuda is None:
        return None
    version = root / "proc/driver/nvidia/version"
    match = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", version.read_text()) if version.is_file() else None
    common: dict[str, Any] = {
        "cards": cards,
        "driver": match[1] if match else "",
        "driver_cuda": driver_cuda,
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    try:
        import torch
    except Exception as error:
        return CudaFacts(**common, error=f"{type(error).__name__}: {' '.join(str(error).split())}")
    if torch.version.cuda is None:
        return CudaFacts(**common)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    properties = [torch.cuda.get_device_properties(index) for index in range(count)]
    return CudaFacts(
        **common,
        torch_cuda=torch.version.cuda,
        architectures=tuple(torch.cuda.get_arch_list()),
        gpus=tuple(GpuFacts(gpu.name, gpu.total_memory, (gpu.major, gpu.minor)) for gpu in properties),
        error=" ".join(str(said[-1].message).split()) if said and not count else "",
    )


def nvidia_cards(root: Path = Path("/")) -> int:
    """Graphics cards of NVIDIA on the PCI bus (class 03)."""
    count = 0
    for device in (root / "sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
        except OSError:
            continue
        count += vendor == NVIDIA and kind.startswith("0x03")
    return count


def _driver_cuda() -> tuple[int, int] | None:
    """Newest CUDA that the driver runs, which needs neither torch nor a context; None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number = ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return None
    return number.value // 1000, number.value % 1000 // 10


# Cores, memory ---------------------------------------------------------------------------------------------


def cores(root: Path = Path("/")) -> dict[str, Any]:
    """Cores of the machine, and those that this process may use."""
    usable = float(len(os.sched_getaffinity(0)))
    for folder in control_groups(root, "cpu"):
        limit = _words(folder / "cpu.max")
        if not limit:
            limit = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        if len(limit) == 2 and limit[0] not in ("max", "-1"):
            usable = min(usable, int(limit[0]) / int(limit[1]))
    return {"cores": os.cpu_count(), "usable_cores": usable}


def memory(root: Path = Path("/")) -> dict[str, Any]:
    """Bytes of the machine, of the container's limit, and available."""
    lines = (root / "proc/meminfo").read_text().splitlines()
    sizes = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines if len(line.split()) > 1}
    limits = [
        int(words[0])
        for folder in control_groups(root, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (words := _words(folder / name)) and words[0] != "max"
    ]
    smallest = min((limit for limit in limits if limit < sizes["MemTotal"]), default=None)
    return {
        "memory": sizes["MemTotal"],
        "memory_limit": smallest,
        "memory_free": sizes.get("MemAvailable"),
    }


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's cgroup (version 2, and 1 of a controller) and of all above it.

    Inside a container the names of `/proc/self/cgroup` may be those outside, of which no folder is here.
    """
    file = root / "proc/self/cgroup"
    for line in file.read_text().splitlines() if file.is_file() else ():
        _, controllers, name = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        home = root / "sys/fs/cgroup" / (controller if controllers else "")
        below = Path(name.lstrip("/"))
        yield from (home / part for part in (below, *below.parents))


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _shared_memory() -> dict[str, Any]:
    usage = shutil.disk_usage("/dev/shm")
    return {"shared_memory": (usage.total, usage.free)}


# Folders ---------------------------------------------------------------------------------------------------


def own_folders() -> list[tuple[str, str, bool]]:
    """What every command writes to: name, path, written."""
    folders = [("temporary files", tempfile.gettempdir(), True), (RAY_FOLDER, str(_ray_folder()), True)]
    if cache := os.environ.get("VETDINO_CACHE"):
        folders.append(("VETDINO_CACHE", str(Path(cache).absolute()), True))
    return folders


def _ray_folder() -> Path:
    """As Ray looks for it, see `ray._common.utils.get_user_temp_dir`."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray"


def folder_facts(name: str, path: str, written: bool, mark: str = "") -> FolderFacts:
    """A folder and its disk. Where it is written, a small file is written there and removed."""
    folder = Path(path)
    existing = next(place for place in (folder, *folder.parents) if place.is_dir())
    usage = shutil.disk_usage(existing)
    facts: dict[str, Any] = {"name": name, "path": path, "written": written, "existing": str(existing)}
    facts |= {"total": usage.total, "free": usage.free}
    if mark:
        facts["marked"] = (existing / mark).exists()
    try:
        if written:
            above = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
            if above != existing:
                raise NotADirectoryError(20, "Not a directory", str(above))
            facts["clock"] = _written_clock(existing)
        else:
            manifest = (folder / "manifest.json").read_bytes()
            facts["content"] = hashlib.sha256(manifest).hexdigest()
    except OSError as error:
        facts["error"] = f"{error.strerror or error} ({error.filename})" if error.filename else str(error)
    return FolderFacts(**facts)


def _written_clock(folder: Path) -> tuple[float, float]:
    """Bounds of what the disk's clock is ahead, by a file that is written and removed again. Raises OSError."""
    before = time.time()
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".vetdino-doctor-") as file:
        file.write(b"vetdino doctor tries whether it can write here\n")
        file.flush()
        os.fsync(file.fileno())
        stamp = os.fstat(file.fileno()).st_mtime
    # Disks stamp with a clock that ticks some hundred times a second; old ones know whole seconds only.
    coarse = 1.0 if stamp == int(stamp) else 0.02
    return stamp - time.time(), stamp + coarse - before


# Ray, ports ------------------------------------------------------------------------------------------------


def ray_facts() -> RayFacts:
    """How Ray would be reached; imports nothing of it."""
    address = os.environ.get("RAY_ADDRESS", "")
    current = _ray_folder() / "ray_current_cluster"
    local = current.read_text().strip() if current.is_file() else ""
    return RayFacts(
        address=address,
        answers=_accepts(address),
        local=local if _accepts(local) else "",
        mode=os.environ.get("RAY_AUTH_MODE", ""),
        token=_token_place(),
        folder=str(_ray_folder()),
    )


def _accepts(address: str) -> bool | None:
    """Whether a TCP connection to HOST:PORT is accepted; None where the address names none, as `auto`."""
    match = re.fullmatch(r"(?:\w+://)?\[?([^/\]]+?)\]?:(\d+)/?", address)
    if match is None:
        return None
    try:
        with socket.create_connection((match[1], int(match[2])), timeout=5):
            return True
    except OSError:
        return False


def _token_place() -> str:
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(given) if given else Path.home() / ".ray" / "auth_token"
    return str(file) if file.is_file() else ""


def is_taken(port: int) -> bool:
    """Whether another program listens on this port of 127.0.0.1."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def gathered(inquiry: Inquiry) -> dict[str, Any]:
    """`gather` as plain values: a node that lacks vetdino has other classes than the machine that asks."""
    return asdict(gather(inquiry))


def now() -> float:
    """The clock, in seconds since 1970."""
    return time.time()
