"""Why a request is refused: a status of HTTP, one sentence, a type that programs can compare, and the limit if one
was reached."""

from __future__ import annotations

from ...platform.core.errors import (
    DataError,
    DicomError,
    FeaturesError,
    GalleryError,
    ShardError,
    StorageError,
    VetdinoError,
)
from ..gallery.bundle import BusyGalleryError
from ..gallery.manifest import BackboneMismatchError
from ..gallery.sharded import MissingShardsError
from ..studies import NotHereError


class RefusedError(VetdinoError):
    """A request that is not answered.

    status: of HTTP. kind: the `error_type` of the answer. limit: its name in `Limits`, where one was reached.
    retry_after: seconds after which the same request may succeed; None where it never does. No identifier is in it.
    """

    def __init__(
        self, status: int, kind: str, message: str, limit: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.limit, self.retry_after = status, kind, limit, retry_after

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:  # it travels between Ray's processes
        return type(self), (self.status, self.kind, str(self), self.limit, self.retry_after)


def overloaded(what: str, limit: str | None, retry_after: int = 1) -> RefusedError:
    """503 at once, instead of a request that times out later."""
    return RefusedError(503, "Overloaded", f"{what}; try again in a moment", limit, retry_after)


MEMORY = "more memory than allowed"
"""How a decoder's error says that it reached its limit."""


def refusal_of(error: Exception) -> RefusedError | None:
    """The refusal that an error stands for; None where it is a fault of the service."""
    match error:
        case RefusedError():
            return error
        case NotHereError():
            return RefusedError(404, "NotFound", str(error))
        case MissingShardsError():
            return RefusedError(503, "MissingShards", str(error), retry_after=2)
        case BusyGalleryError():
            return RefusedError(503, "Busy", "the gallery is being changed", retry_after=2)
        case BackboneMismatchError():
            return RefusedError(409, "BackboneMismatch", error.plain)
        case ShardError():  # its text names files of this machine
            return RefusedError(
                503, "ShardsDamaged", "this study's shard is damaged or missing", retry_after=30
            )
        case StorageError():
            return RefusedError(503, "StorageUnavailable", "the storage of the studies fails", retry_after=5)
        case DicomError(code="TOO_LARGE"):
            return RefusedError(413, error.code, str(error), "megapixels")
        case DicomError(code="NOT_DICOM" | "NOT_PICTURE"):
            return RefusedError(415, error.code, f"neither DICOM nor PNG nor JPEG ({error})")
        case DicomError() if MEMORY in error.detail:
            return RefusedError(413, error.code, str(error), "decode_gib")
        case DicomError():
            return RefusedError(422, error.code, str(error))
        case GalleryError() | FeaturesError() | DataError():
            return RefusedError(422, type(error).__name__, str(error))
    return None
