"""The archive of generated files that the tests of ingest use."""

from __future__ import annotations

from tests.platform.ingest.conftest import archive, config

__all__ = ["archive", "config"]
