"""Names of scans and labels: endings, natural order, and the key that joins a label to its image."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

NIFTI = (".nii.gz", ".nii")
"""Endings of NIfTI files."""

PICTURES = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")
"""Endings of picture files."""

IMAGES = ("image", "images", "img", "imgs", "imagestr", "volume", "volumes", "scan", "scans")
"""Words that mark a file or folder as a scan; they are not part of its key."""

LABELS = (
    "label",
    "labels",
    "labelstr",
    "mask",
    "masks",
    "seg",
    "segmentation",
    "segmentations",
    "gt",
    "ground",
)
"""Words that mark a file or folder as labels."""


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """A sort key by which `2` comes before `10`, alone or within a name; different names have different keys.

    >>> sorted(["10", "2", "a10", "a2", "02"], key=natural_key)
    ['02', '2', '10', 'a2', 'a10']
    """
    parts = re.findall(r"\d+|\D+", name)
    key = [(0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in parts]
    return [*key, (-1, 0, name)]


def stem(name: str) -> str:
    """A file's name without its ending, where that is one of NIfTI or a picture.

    >>> stem("liver.nii.gz")
    'liver'
    """
    ending = next((end for end in (*NIFTI, *PICTURES) if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)]


def scan_key(name: str) -> str:
    """A file's name without its ending and the words for image and label: an image and its label have the same.

    >>> [scan_key(name) for name in ("image_13.png", "label_13.png", "img0001.nii.gz", "ct_007_seg.nii", "label.nii")]
    ['13', '13', '0001', 'ct_007', '']
    """
    parts = re.findall(r"[A-Za-z]+|\d+|[^A-Za-z\d]+", stem(name))
    kept = "".join("" if part.casefold() in (*IMAGES, *LABELS) else part for part in parts)
    return re.sub(r"([^A-Za-z\d])[^A-Za-z\d]+", r"\1", kept).strip("_-. ")


def is_label(name: str) -> bool:
    """Whether a file or folder name holds a word for labels.

    >>> is_label("ct_007_seg.nii"), is_label("ct_007.nii")
    (True, False)
    """
    return any(word.casefold() in LABELS for word in re.findall(r"[A-Za-z]+", stem(name)))


def safe_name(name: str) -> str:
    """The name with everything replaced that a file name should not hold.

    >>> safe_name("scan 7/left")
    'scan_7_left'
    """
    return re.sub(r"[^\w.-]+", "_", name).strip(".") or "scan"


def first_few(values: Sequence[object] | np.ndarray, count: int = 4) -> str:
    """The first `count` values as text.

    >>> first_few([1.5, 2.0, 3.25], 2)
    '1.5, 2, …'
    """
    texts = [
        f"{value:g}" if isinstance(value, (float, np.floating)) else str(value) for value in values[:count]
    ]
    return ", ".join(texts) + (", …" if len(values) > count else "")
