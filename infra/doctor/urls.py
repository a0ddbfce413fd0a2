"""Folders on object storage, tried as commands use them."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace

from ...platform.core.errors import VetdinoError
from ...platform.core.location import Location
from ...platform.core.storage import read_bytes, remove, write_bytes
from .facts import FolderFacts


def url_facts(name: str, url: str, written: bool) -> FolderFacts:
    """Can a small object be written there and removed, or the manifest of shards be read?"""
    facts = FolderFacts(name=name, path=url, written=written)
    try:
        if written:
            probe = f".vetdino-doctor-{secrets.token_hex(4)}"
            write_bytes(Location(url) / probe, b"vetdino doctor tries whether it can write here\n")
            remove(url, [probe])
            return facts
        manifest = read_bytes(Location(url) / "manifest.json")
    except (VetdinoError, OSError) as error:
        # The message names the object; the finding names the folder.
        return replace(facts, error=re.sub(rf"^{re.escape(url)}\S*: ", "", " ".join(str(error).split())))
    if manifest is None:
        return replace(facts, error="No such file (manifest.json); give a folder that `vetdino ingest` wrote")
    return replace(facts, content=hashlib.sha256(manifest).hexdigest())


def all_url_facts(urls: Sequence[tuple[str, str, bool]]) -> list[FolderFacts]:
    """Of several URLs: setting, URL, whether it is written."""
    return [url_facts(name, url, written) for name, url, written in urls]
