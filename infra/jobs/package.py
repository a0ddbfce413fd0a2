"""vetdino itself as one file that travels with a job: the files of the package, of a checkout or installed."""

from __future__ import annotations

import tomllib
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from ...platform.core.errors import ConfigError

NAME = "vetdino"
ROOT = Path(__file__).resolve().parents[2]
"""Folder of the package that runs here: the top of a checkout, or `site-packages/vetdino`."""

MIB = 2**20
MOST_BYTES = 100 * MIB
"""What Ray takes; it answers HTTP 413 to more."""

WRITTEN = (1980, 1, 1, 0, 0, 0)
"""Time of every file in the archive: the same files are the same bytes, which Ray then uploads once."""


def package_files(root: Path = ROOT) -> list[Path]:
    """The files of the package, relative to its folder, sorted.

    Of a checkout those that `pyproject.toml` puts into the wheel, so neither tests nor data and runs that lie beside
    them; of an installed package all but Python's caches.
    """
    settings = root / "pyproject.toml"
    if settings.is_file():
        found = _listed(root, tomllib.loads(settings.read_text(encoding="utf-8"))["tool"]["setuptools"])
    else:
        found = {path for path in root.rglob("*") if "__pycache__" not in path.parts}
    return sorted(path.relative_to(root) for path in found if path.is_file())


def _listed(root: Path, settings: dict[str, dict[str, list[str]]]) -> set[Path]:
    patterns = {package: ["*.py"] for package in settings["packages"]}
    for package, more in settings["package-data"].items():
        patterns[package] = patterns[package] + more
    return {
        path
        for package, globs in patterns.items()
        for pattern in globs
        for path in root.joinpath(*package.split(".")[1:]).glob(pattern)
    }


def write_package(target: Path, root: Path = ROOT) -> Path:
    """Write the package as a ZIP file in which it is the folder `vetdino`; the file.

    Raises ConfigError where it is larger than a cluster takes; the message names the largest files.
    """
    with ZipFile(target, "w", ZIP_DEFLATED) as archive:
        for path in package_files(root):
            entry = ZipInfo(f"{NAME}/{path.as_posix()}", WRITTEN)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, (root / path).read_bytes(), ZIP_DEFLATED)
        sizes = sorted(((info.compress_size, info.filename) for info in archive.infolist()), reverse=True)
    size = target.stat().st_size
    if size >= MOST_BYTES:
        largest = ", ".join(f"{name} {packed / MIB:.1f}" for packed, name in sizes[:3])
        raise ConfigError(
            f"{root}: vetdino has {size / MIB:.1f} MiB when packed, and Ray takes less than {MOST_BYTES // MIB} "
            f"(largest, in MiB: {largest}); move what does not belong to the package out of it"
        )
    return target
