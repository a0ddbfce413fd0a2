"""Folders of b-mode frames as domains: who was scanned with what, where, and which frames can be used.

A domain is a folder with `images/` and `masks/` of the same names (PNG, JPEG, BMP or TIFF). A frame that cannot
be used is left out with a reason, never silently. Masks hold 0 and 255, or 0 and 1.
"""

# H, W height and width of a frame as it came; h, w those of the picture that the network sees.

from __future__ import annotations

import csv
import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ...platform.core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from ...platform.models.backbone import Backbone

TABLE = "domains.csv"
"""Table of domains that is looked for in a folder."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""How the names of pictures end."""

FACTS = ("subject", "device", "body_part")
"""What a table may tell of a domain, in the order in which differences are named."""

PAINTED = 40
"""From this difference between a pixel's strongest and weakest colour on (of 255) it counts as coloured."""

PAINTED_SHARE = 0.1
"""A label is taken to be painted in where more of the mask is coloured, and twice the share outside of it."""

LONGEST = 10
"""No frame is more than so many times longer than wide; what is, is a strip or a table."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One b-mode frame as it came: pixels (H, W) uint8, mask (H, W) bool or None where nobody drew one.

    >>> Frame("0007", "arm", np.zeros((4, 6), np.uint8), np.ones((4, 6), bool))
    Frame(arm/0007, 4x6, mask 100 %)
    """

    name: str
    domain: str
    pixels: np.ndarray
    mask: np.ndarray | None = None

    @property
    def key(self) -> str:
        """Domain and name: what tells it from every other frame."""
        return f"{self.domain}/{self.name}"

    @property
    def digest(self) -> str:
        """sha256 of size and pixels: two files of the same picture have the same one."""
        size = f"{self.pixels.shape}".encode()
        return hashlib.sha256(size + np.ascontiguousarray(self.pixels).tobytes()).hexdigest()

    def __repr__(self) -> str:
        mask = "no mask" if self.mask is None else f"mask {100 * self.mask.mean():.0f} %"
        return f"Frame({self.key}, {'x'.join(map(str, self.pixels.shape))}, {mask})"


@dataclass(frozen=True, slots=True, eq=False)
class Domain:
    """Frames of one subject, device and part of the body, by name; what the table does not tell is empty.

    left_out: file -> why it is no frame. doubts: frame -> what is odd about it though it is kept.
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


def domains_of(source: Path | str) -> tuple[Domain, ...]:
    """The domains of a folder of domain folders, of one domain folder, or of a table; sorted by name.

    A table (CSV) has the columns domain and folder, and may have subject, device and body_part; its folders
    lie beside it. A folder that holds a `domains.csv` is read by it. Raises DataError where there is no
    domain, a table cannot be read, or no frame of a domain is of any use.
    """
    source = Path(source)
    if source.is_file():
        rows = _rows(source)
    elif (source / TABLE).is_file():
        rows = _rows(source / TABLE)
    elif (source / "images").is_dir():
        rows = [(source.resolve().name, source, {})]
    elif source.is_dir():
        parts = sorted(part for part in source.iterdir() if (part / "images").is_dir())
        rows = [(part.name, part, {}) for part in parts]
    else:
        raise DataError(f"{source}: no such folder or table; give a folder of domains or a CSV of them")
    if not rows:
        raise DataError(
            f"{source}: no domain here; a domain is a folder with images/ and masks/ of the same names"
        )
    return tuple(sorted((_domain(*row) for row in rows), key=lambda domain: domain.name))


def setup_of(a: Domain, b: Domain) -> str:
    """What differs between two domains by what their table tells; `not told` where it tells nothing of both.

    >>> setup_of(Domain("x", (), "s1", "d1", "arm"), Domain("y", (), "s2", "d1", "leg"))
    'subject + body part'
    >>> setup_of(Domain("x", (), "s1", "d1"), Domain("y", (), "s1", "d1")), setup_of(Domain("x", ()), Domain("y", ()))
    ('same setup', 'not told')
    """
    told = [(fact, getattr(a, fact), getattr(b, fact)) for fact in FACTS]
    told = [(fact, one, other) for fact, one, other in told if one and other]
    if not told:
        return "not told"
    differing = [fact.replace("_", " ") for fact, one, other in told if one != other]
    return " + ".join(differing) or "same setup"


def digest_of(domains: Sequence[Domain]) -> str:
    """sha256 of all that an experiment is given: domains with their facts, frames by name, pixels, masks."""
    told = hashlib.sha256()
    for domain in sorted(domains, key=lambda one: one.name):
        told.update("\0".join((domain.name, *(getattr(domain, fact) for fact in FACTS))).encode())
        for frame in domain.frames:
            mask = b"" if frame.mask is None else np.packbits(frame.mask).tobytes()
            told.update(f"\0{frame.name}\0{frame.digest}\0".encode() + mask)
    return told.hexdigest()


def drawn_from(domain: Domain, seed: int) -> tuple[Frame, ...]:
    """A domain's frames in an order drawn by the seed and the domain's name: its first n are the set of n.

    The order of the files plays no part.
    """
    frames = sorted(domain.frames, key=lambda frame: frame.name)
    name = int.from_bytes(hashlib.sha256(domain.name.encode()).digest()[:8])
    order = np.random.default_rng([seed, name]).permutation(len(frames))
    return tuple(frames[place] for place in order)


def enough(
    domains: Sequence[Domain], needed: int, *, domains_needed: int = 1, truth: bool = True
) -> tuple[list[Domain], dict[str, str]]:
    """The domains with at least `needed` frames (and masks, where truth is needed); domain -> why it is not among
    them. Raises DataError where fewer domains are left than needed."""
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


def picture_of(frame: Frame, backbone: Backbone, short: int = 224) -> Tensor:
    """A frame as the network sees it: (1, h, w) float32, normalised by the backbone's card.

    The shorter side becomes `short` pixels, proportions are kept; shrunk by area, enlarged linearly.
    """
    import torch

    height, width = frame.pixels.shape
    scale = short / min(height, width)
    rows, columns = max(short, round(height * scale)), max(short, round(width * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return backbone.normalised(
        torch.from_numpy(cv2.resize(frame.pixels, (columns, rows), interpolation=way))
    )[None]


def frames_of(sources: Sequence[Path | str]) -> tuple[tuple[Frame, ...], dict[str, str]]:
    """Frames without truth out of files and folders (their own pictures, or those in their `images/`), and
    file -> why it was left out. Two of one name carry their folder's. Raises DataError where there is none."""
    paths: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            found = _pictures(source / "images" if (source / "images").is_dir() else source)
            if not found:
                raise DataError(f"{source}: no picture here; expected {', '.join(SUFFIXES)}")
            paths += found
        elif source.is_file():
            paths.append(source)
        else:
            raise DataError(f"{source}: no such file or folder; give pictures or folders of them")
    paths = sorted({path.resolve(): path for path in paths}.values())
    frames, left_out = [], {}
    for path, name in zip(paths, _told_apart(paths), strict=True):
        try:
            frames.append(Frame(name, "", _grey(_picture(path))))
        except _FrameError as reason:
            left_out[str(path)] = str(reason)
    if not frames:
        raise DataError(f"{len(paths)} files and none is a frame; {_first(left_out)}")
    return tuple(frames), left_out


class _FrameError(Exception):
    """Why a file is no frame; it stays in this file."""


def _rows(table: Path) -> list[tuple[str, Path, dict[str, str]]]:
    """(domain, folder, what is told of it) for each row of a table. Raises DataError."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            lines = [
                {(key or "").strip(): (value or "").strip() for key, value in line.items() if key}
                for line in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: not a readable CSV table ({type(error).__name__})") from None
    if not lines:
        raise DataError(
            f"{table}: a table without rows; one for each domain: domain, folder, {', '.join(FACTS)}"
        )
    missing = [name for name in ("domain", "folder") if name not in lines[0]]
    if missing:
        raise DataError(f"{table}: no column '{missing[0]}'; found {', '.join(lines[0])}")
    names = [line["domain"] for line in lines]
    for number, line in enumerate(lines, start=2):
        name, folder = line["domain"], PurePath(line["folder"])
        if not name or names.count(name) > 1 or "/" in name:
            raise DataError(
                f"{table}: line {number}: domain {name!r}; each needs a name of its own, without /"
            )
        if not line["folder"] or folder.is_absolute() or ".." in folder.parts:
            raise DataError(
                f"{table}: line {number}: folder {line['folder']!r} does not lie beside the table"
            )
        if not (table.parent / folder / "images").is_dir():
            raise DataError(f"{table}: line {number}: {table.parent / folder} has no images/")
    return [
        (line["domain"], table.parent / line["folder"], {fact: line.get(fact, "") for fact in FACTS})
        for line in lines
    ]


def _domain(name: str, folder: Path, facts: Mapping[str, str]) -> Domain:
    """Reads one domain folder. Raises DataError where none of it can be used."""
    frames: list[Frame] = []
    left_out: dict[str, str] = {}
    doubts: dict[str, str] = {}
    labelled = (folder / "masks").is_dir()
    masks = _by_stem(_pictures(folder / "masks")) if labelled else {}
    images = _by_stem(_pictures(folder / "images"))
    for stem, paths in images.items():
        try:
            frame = _frame(name, stem, paths, masks.get(stem, []) if labelled else None)
        except _FrameError as reason:
            left_out[f"images/{paths[0].name}"] = str(reason)
            continue
        frames.append(frame)
        if frame.mask is not None and not frame.mask.any():
            doubts[stem] = "its mask is empty; it scores 1 where nothing is found in it, else 0"
    for stem in masks.keys() - images.keys():
        left_out[f"masks/{masks[stem][0].name}"] = "no image of that name in images/"
    if not frames:
        raise DataError(f"{folder}: no usable frame; {_first(left_out) or 'images/ is empty'}")
    if labelled and not any(frame.mask.any() for frame in frames):
        raise DataError(f"{folder}: every mask is empty; expected 0 and 255, or 0 and 1")
    return Domain(name, tuple(frames), left_out=dict(sorted(left_out.items())), doubts=doubts, **facts)


def _frame(domain: str, stem: str, images: list[Path], masks: list[Path] | None) -> Frame:
    """One frame with its mask; masks None: there are none in this domain. Raises _FrameError."""
    if len(images) > 1:
        raise _FrameError(f"{len(images)} images of that name ({', '.join(path.name for path in images)})")
    colours = _picture(images[0])
    if masks is None:
        return Frame(stem, domain, _grey(colours))
    if len(masks) != 1:
        raise _FrameError(
            f"{len(masks) or 'no'} masks of that name in masks/" if masks else "no mask in masks/"
        )
    mask = _mask(masks[0])
    if mask.shape != colours.shape[:2]:
        raise _FrameError(f"the image is {_size(colours)}, its mask {_size(mask)} (height x width)")
    share = _painted(colours, mask)
    if share:
        raise _FrameError(
            f"{100 * share:.0f} % of what the mask covers is coloured: a label seems painted into the image"
        )
    return Frame(stem, domain, _grey(colours), mask)


def _picture(path: Path) -> np.ndarray:
    """A picture as (H, W) or (H, W, 3) uint8. Raises _FrameError where it cannot be read so."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                if picture.mode.startswith(("I", "F")):
                    raise _FrameError(f"{picture.mode} pixels; export it with 8 bits a channel")
                pixels = np.array(picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB"))
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombWarning,
        Image.DecompressionBombError,
    ) as e:
        raise _FrameError(f"not a readable picture ({type(e).__name__})") from None
    height, width = pixels.shape[:2]
    if max(height, width) > LONGEST * min(height, width):
        raise _FrameError(f"{_size(pixels)} pixels is a strip, no frame")
    return pixels


def _mask(path: Path) -> np.ndarray:
    """A mask file as (H, W) bool. Values between 0 and 255 (an edge that was smoothed) count from 128 on."""
    try:
        grey = _grey(_picture(path))
    except _FrameError as reason:
        raise _FrameError(f"its mask: {reason}") from None
    highest = int(grey.max())
    if 1 < highest < 128:
        values = ", ".join(map(str, np.unique(grey)[:4]))
        raise _FrameError(f"its mask holds the values {values} …; expected 0 and 255, or 0 and 1")
    return grey >= (128 if highest > 1 else 1)


def _grey(colours: np.ndarray) -> np.ndarray:
    return colours if colours.ndim == 2 else cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)


def _painted(colours: np.ndarray, mask: np.ndarray) -> float:
    """Share of the mask that is coloured where that gives a painted label away, else 0.

    The share outside is its measure: a device may tint the whole frame.
    """
    if colours.ndim == 2 or not mask.any():
        return 0.0
    coloured = colours.max(axis=2).astype(int) - colours.min(axis=2) >= PAINTED
    inside = float(coloured[mask].mean())
    outside = float(coloured[~mask].mean()) if not mask.all() else 0.0
    return inside if inside > PAINTED_SHARE and inside > 2 * outside else 0.0


def _pictures(folder: Path) -> list[Path]:
    """Files of a folder whose names end like a picture's, sorted; hidden ones are passed over."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def _by_stem(paths: Sequence[Path]) -> dict[str, list[Path]]:
    by: dict[str, list[Path]] = {}
    for path in paths:
        by.setdefault(path.stem, []).append(path)
    return by


def _told_apart(paths: Sequence[Path]) -> Iterator[str]:
    """A name for each file: its stem, with the folder's and then a number where that is taken."""
    stems = [path.stem for path in paths]
    taken: set[str] = set()
    for path in paths:
        home = path.resolve().parent
        folder = home.parent.name if home.name == "images" else home.name
        plain = path.stem if stems.count(path.stem) == 1 else f"{folder}_{path.stem}"
        name, number = plain, 2
        while name in taken:
            name, number = f"{plain}-{number}", number + 1
        taken.add(name)
        yield name


def _first(left_out: Mapping[str, str]) -> str:
    return next((f"{name}: {reason}" for name, reason in left_out.items()), "")


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[0]}x{pixels.shape[1]}"
