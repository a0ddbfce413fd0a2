"""Judgements of what is around a command: folders and their disks, ports, the way to a Ray."""

from __future__ import annotations

from collections.abc import Iterator

from .facts import RAY_FOLDER, FolderFacts, MachineFacts, RayFacts
from .findings import GIB, Finding, size

LEAST_DISK, GOOD_DISK = GIB, 20 * GIB
"""Free on a disk that is written: below the first a checkpoint of a ViT-S finds no room, below the second few do."""

RAY_FULL = 0.95
"""Used share of a disk above which Ray keeps nothing there any more, and fails."""

LONGEST_SOCKET = 107
"""Bytes of the path of a Unix socket."""

SOCKET = "/session_2026-11-28_23-06-19_123456_1234567/sockets/plasma_store.1"
"""What Ray puts behind the folder of its sessions."""

CLOCK_S = 2.0
"""Seconds by which clocks may differ before it is said."""


def place_findings(facts: MachineFacts, uses: dict[int, str]) -> Iterator[Finding]:
    """All judgements of this module. uses: port -> what wants it."""
    for folder in facts.folders:
        yield from folder_findings(folder)
    yield from ports(facts, uses)
    if facts.ray is not None:
        yield from ray(facts.ray, "ray" in facts.packages)


def folder_findings(folder: FolderFacts) -> Iterator[Finding]:
    """Can it be used, is there room, and is its disk's clock this machine's?"""
    name = f"{folder.name} {folder.path}"
    if folder.error:
        yield Finding("problem", f"{name}: {folder.error}", _folder_mend(folder))
        return
    if not folder.written:
        yield Finding("ok", f"{name}: readable")
        return
    there = "" if folder.existing in (folder.path, "") else f" ({folder.existing}; the rest will be made)"
    room = f", {size(folder.free)} free" if folder.total else ""
    what = f"{name}: writable{there}{room}"
    if folder.total and folder.free < LEAST_DISK:
        yield Finding("problem", what, "free some space, or choose another disk")
    elif folder.total and folder.free < GOOD_DISK:
        yield Finding("warning", what, "20 GiB or more hold checkpoints and caches")
    else:
        yield Finding("ok", what)
    if folder.name == RAY_FOLDER and folder.total and folder.free < (1 - RAY_FULL) * folder.total:
        used = 100 * (1 - folder.free / folder.total)
        yield Finding(
            "problem",
            f"{name}: its disk is {used:.0f} % full, and Ray keeps no objects above 95 %",
            "free some space, or set RAY_TMPDIR to a folder on another disk",
        )
    if folder.clock is not None and (folder.clock[0] > CLOCK_S or folder.clock[1] < -CLOCK_S):
        yield Finding(
            "warning",
            f"{name}: its disk's clock is {offset_text(*folder.clock)} this machine's",
            "set both (NTP); caches there are kept longer or shorter than they should be",
        )


def _folder_mend(folder: FolderFacts) -> str:
    if "://" in folder.path:
        return ""  # what object storage refuses is explained with its mend
    if folder.name == RAY_FOLDER:
        return "set RAY_TMPDIR to a folder of your own"
    if folder.written:
        return "choose another folder, or let this user write there (chown, chmod, mount options)"
    return "give a folder that `vetdino ingest` wrote"


def offset_text(low: float, high: float) -> str:
    """A clock's difference that lies between two bounds, with half their distance as uncertainty.

    >>> offset_text(-4.1, -3.9), offset_text(600.0, 601.0)
    ('4.0 s (± 0.1 s) behind', '600.5 s (± 0.5 s) ahead of')
    """
    middle, half = (low + high) / 2, (high - low) / 2
    digits = 1 if half >= 0.05 else 3
    side = "ahead of" if middle > 0 else "behind"
    return f"{abs(middle):.{digits}f} s (± {max(half, 0.1**digits):.{digits}f} s) {side}"


def ports(facts: MachineFacts, uses: dict[int, str]) -> Iterator[Finding]:
    """Which of the ports that vetdino and Ray want are taken?"""
    taken = [port for port, is_taken in facts.ports.items() if is_taken]
    free = [str(port) for port, is_taken in facts.ports.items() if not is_taken]
    is_rays = facts.ray is not None and bool(facts.ray.local)
    for port in taken:
        if is_rays and uses[port].startswith("Ray"):
            yield Finding("ok", f"port {port} ({uses[port]}): taken, as by the Ray that runs here")
        elif uses[port].startswith("Ray"):
            mend = f"end what listens there (`ss -ltnp 'sport = :{port}'`), or give Ray another port"
            yield Finding("warning", f"port {port} ({uses[port]}): taken", mend)
        else:
            yield Finding("warning", f"port {port} ({uses[port]}): taken", "give that command another --port")
    if free:
        yield Finding("ok", f"ports: {', '.join(free)} are free")


def ray(facts: RayFacts, installed: bool) -> Iterator[Finding]:
    """Is Ray there, does RAY_ADDRESS answer, is there a token where one is needed?"""
    if not installed:
        return  # said with its extra
    if facts.address.startswith(("http://", "https://")):
        state = "answers" if facts.answers else "does not answer"
        yield Finding(
            "ok" if facts.answers else "problem",
            f"Ray: RAY_ADDRESS {facts.address} is for `ray job submit` and {state}; commands run here cannot use it",
            "" if facts.answers else "start that cluster, or correct RAY_ADDRESS",
        )
    elif facts.answers is False:
        yield Finding(
            "problem",
            f"Ray: RAY_ADDRESS is {facts.address}, and nothing answers there",
            "start that Ray (`ray start --head`), correct RAY_ADDRESS, or unset it to start one here",
        )
    elif facts.address:
        yield Finding("ok", f"Ray: RAY_ADDRESS {facts.address}; --cluster asks its nodes")
    elif facts.local:
        yield Finding("ok", f"Ray: one runs at {facts.local}; a training takes it")
    else:
        yield Finding("ok", "Ray: none found; a training starts one on this machine")
    if len(facts.folder) + len(SOCKET) > LONGEST_SOCKET:
        yield Finding(
            "problem",
            f"Ray: the path {facts.folder} is too long for its sockets ({LONGEST_SOCKET} bytes with all below it)",
            "set RAY_TMPDIR to a short one such as /tmp",
        )
    yield from _token(facts)


def _token(facts: RayFacts) -> Iterator[Finding]:
    mode = facts.mode.lower()
    if mode == "token" and not facts.token and facts.address:
        yield Finding(
            "problem",
            "Ray: RAY_AUTH_MODE is token, and there is no token",
            "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's, or copy the head's ~/.ray/auth_token here",
        )
    elif mode not in ("", "token", "disabled"):
        yield Finding("problem", f"Ray: RAY_AUTH_MODE is {facts.mode}", "set it to token or disabled")
    elif mode == "" and facts.token and facts.address:
        yield Finding(
            "warning",
            f"Ray: there is a token ({facts.token}), but RAY_AUTH_MODE is not set: `ray job submit` sends none",
            "export RAY_AUTH_MODE=token",
        )
    elif mode == "token" and facts.token:
        yield Finding("ok", f"Ray: a token is sent ({facts.token})")
