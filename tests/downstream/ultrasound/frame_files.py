"""Frames on disk, for the tests that read them."""

from __future__ import annotations

from PIL import Image

from vetdino.downstream.ultrasound.domains import Domain


def save(path, pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def reason(domain: Domain, file: str) -> str:
    """Why the one file that was left out was left out."""
    assert list(domain.left_out) == [file]
    return domain.left_out[file]
