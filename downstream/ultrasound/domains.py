"""Folders of b-mode frames as domains: who was scanned with what, where, and which frames can be used.

A domain is a folder with `images/` and `masks/` of the same names (PNG, JPEG, BMP or TIFF).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np

from ...platform.core.errors import DataError
from ..common.csv_table import read_csv_rows
from .frames import Frame, FrameError, list_pictures, read_frame

TABLE = "domains.csv"
"""Table of domains that a folder may hold."""

SETUP_FIELDS = ("subject", "device", "body_part")
"""Optional columns of the table, in the order in which differences are named."""


@dataclass(frozen=True, slots=True, eq=False)
class Domain:
    """Frames of one subject, device and part of the body, by name; a fact that the table lacks is empty.

    left_out: file -> why it is not a frame. doubts: frame -> what is odd about it though it is kept.
    """

    name: str
    frames: tuple[Frame, ...]
    subject: str = ""
    device: str = ""
    body_part: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)
    doubts: Mapping[str, str] = field(default_factory=dict)

    @property
    def labelled(self) -> bool:
        """Whether its frames have masks."""
        return all(frame.mask is not None for frame in self.frames)

    def __repr__(self) -> str:
        return f"Domain({self.name}, {len(self.frames)} frames, {len(self.left_out)} left out)"


def read_domains(source: Path | str) -> tuple[Domain, ...]:
    """The domains of a folder of domain folders, of one domain folder, or of a table; sorted by name.

    A table (CSV) has the columns domain and folder, and may have subject, device and body_part; its folders
    lie beside it. A folder that holds a `domains.csv` is read by it. Raises DataError where there is no
    domain, a table cannot be read, or a domain has no usable frame.
    """
    source = Path(source)
    if source.is_file():
        rows = _table_rows(source)
    elif (source / TABLE).is_file():
        rows = _table_rows(source / TABLE)
    elif (source / "images").is_dir():
        rows = [(source.resolve().name, source, {})]
    elif source.is_dir():
        folders = sorted(folder for folder in source.iterdir() if (folder / "images").is_dir())
        rows = [(folder.name, folder, {}) for folder in folders]
    else:
        raise DataError(f"{source}: no such folder or table; give a folder of domains or a CSV of them")
    if not rows:
        raise DataError(
            f"{source}: no domain here; a domain is a folder with images/ and masks/ of the same names"
        )
    return tuple(sorted((_read_domain(*row) for row in rows), key=lambda domain: domain.name))


def setup_difference(a: Domain, b: Domain) -> str:
    """The setup fields in which two domains differ; `unknown` where no field is known of both.

    >>> setup_difference(Domain("x", (), "s1", "d1", "arm"), Domain("y", (), "s2", "d1", "leg"))
    'subject + body part'
    >>> setup_difference(Domain("x", (), "s1", "d1"), Domain("y", (), "s1", "d1"))
    'same setup'
    >>> setup_difference(Domain("x", ()), Domain("y", ()))
    'unknown'
    """
    values = [(name, getattr(a, name), getattr(b, name)) for name in SETUP_FIELDS]
    known = [(name, one, other) for name, one, other in values if one and other]
    if not known:
        return "unknown"
    differing = [name.replace("_", " ") for name, one, other in known if one != other]
    return " + ".join(differing) or "same setup"


def domains_digest(domains: Sequence[Domain]) -> str:
    """sha256 over the input of an experiment: domains with their setup fields, frames by name, pixels, masks."""
    sha = hashlib.sha256()
    for domain in sorted(domains, key=lambda one: one.name):
        sha.update("\0".join((domain.name, *(getattr(domain, name) for name in SETUP_FIELDS))).encode())
        for frame in domain.frames:
            mask = b"" if frame.mask is None else np.packbits(frame.mask).tobytes()
            sha.update(f"\0{frame.name}\0{frame.digest}\0".encode() + mask)
    return sha.hexdigest()


def shuffled_frames(domain: Domain, seed: int) -> tuple[Frame, ...]:
    """A domain's frames in an order drawn by the seed and the domain's name, whatever the order of its files.

    Every set of n images is the first n of them, so that sets are nested.
    """
    frames = sorted(domain.frames, key=lambda frame: frame.name)
    name = int.from_bytes(hashlib.sha256(domain.name.encode()).digest()[:8])
    order = np.random.default_rng([seed, name]).permutation(len(frames))
    return tuple(frames[place] for place in order)


def usable_domains(
    domains: Sequence[Domain], needed: int, *, domains_needed: int = 1, truth: bool = True
) -> tuple[list[Domain], dict[str, str]]:
    """(domains with at least `needed` frames, domain -> why it is left out); with `truth`, those with masks.

    Raises DataError where fewer domains are left than needed.
    """
    kept, left_out = [], {}
    for domain in domains:
        if truth and not domain.labelled:
            left_out[domain.name] = "it has no masks/, and this needs the truth"
        elif len(domain.frames) < needed:
            left_out[domain.name] = f"{len(domain.frames)} usable images, this needs {needed}"
        else:
            kept.append(domain)
    if len(kept) < domains_needed:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items()) or "no more were given"
        raise DataError(f"{len(kept)} usable domains, this needs {domains_needed} ({why})")
    return kept, left_out


def _table_rows(table: Path) -> list[tuple[str, Path, dict[str, str]]]:
    """(domain, folder, setup fields) for each row of a table. Raises DataError."""
    rows = read_csv_rows(table, "domain", ("domain", "folder"), SETUP_FIELDS)
    names = [row["domain"] for row in rows]
    for number, row in enumerate(rows, start=2):
        name, folder = row["domain"], PurePath(row["folder"])
        if not name or names.count(name) > 1 or "/" in name:
            raise DataError(f"{table}: line {number}: domain {name!r}; each needs a unique name, without /")
        if not row["folder"] or folder.is_absolute() or ".." in folder.parts:
            raise DataError(f"{table}: line {number}: folder {row['folder']!r} does not lie beside the table")
        if not (table.parent / folder / "images").is_dir():
            raise DataError(f"{table}: line {number}: {table.parent / folder} has no images/")
    return [
        (row["domain"], table.parent / row["folder"], {name: row.get(name, "") for name in SETUP_FIELDS})
        for row in rows
    ]


def _read_domain(name: str, folder: Path, setup: Mapping[str, str]) -> Domain:
    """Reads one domain folder. Raises DataError where it has no usable frame."""
    frames: list[Frame] = []
    left_out: dict[str, str] = {}
    doubts: dict[str, str] = {}
    labelled = (folder / "masks").is_dir()
    masks = _by_stem(list_pictures(folder / "masks")) if labelled else {}
    images = _by_stem(list_pictures(folder / "images"))
    for stem, paths in images.items():
        try:
            frame = read_frame(name, stem, paths, masks.get(stem, []) if labelled else None)
        except FrameError as reason:
            left_out[f"images/{paths[0].name}"] = str(reason)
            continue
        frames.append(frame)
        if frame.mask is not None and not frame.mask.any():
            doubts[stem] = "its mask is empty; it scores 1 where nothing is found in it, else 0"
    for stem in masks.keys() - images.keys():
        left_out[f"masks/{masks[stem][0].name}"] = "no image of that name in images/"
    if not frames:
        first = next((f"{file}: {why}" for file, why in left_out.items()), "images/ is empty")
        raise DataError(f"{folder}: no usable frame; {first}")
    if labelled and not any(frame.truth.any() for frame in frames):
        raise DataError(f"{folder}: every mask is empty; expected 0 and 255, or 0 and 1")
    return Domain(name, tuple(frames), left_out=dict(sorted(left_out.items())), doubts=doubts, **setup)


def _by_stem(paths: Sequence[Path]) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for path in paths:
        files.setdefault(path.stem, []).append(path)
    return files
