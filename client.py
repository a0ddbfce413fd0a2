"""A client of the service that `vetdino serve` starts: `from vetdino.client import Client`. Needs no torch."""

from .serving.client import (
    AsyncClient,
    Client,
    Embedding,
    Match,
    PatchScores,
    SearchResult,
    ServiceError,
)

__all__ = ["AsyncClient", "Client", "Embedding", "Match", "PatchScores", "SearchResult", "ServiceError"]
