"""Errors meant for people: each reaches the terminal as one line, with what was found, where, and what to do.

An `assert` elsewhere in the package guards what only a mistake of ours could break.
"""


class VetdinoError(Exception):
    """Base of all errors meant for people."""


class ConfigError(VetdinoError):
    """A setting, a recipe or a command line that is invalid."""


class LockError(VetdinoError):
    """An output folder that another run is writing to."""


class StorageError(VetdinoError):
    """Object storage that refuses, cannot be reached, or does not hold what it should."""


class UnansweredError(StorageError):
    """Object storage that does not answer after all retries of a request; it may be well again soon."""


class DataError(VetdinoError):
    """Input that cannot be used as it is."""


class DicomError(DataError):
    """One file that gives no view.

    code: one of the closed list `ingest.header.CODES`. detail: more about it; holds no identifier.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class PictureError(DataError):
    """A picture file that cannot be read, or not in one way only; the message names no path."""


class ShardError(DataError):
    """A shard or manifest that is damaged, incomplete or of another version."""


class FeaturesError(DataError):
    """A feature table that does not fit its backbone, its labels or itself."""


class CheckpointError(VetdinoError):
    """A checkpoint or backbone folder that is damaged or does not fit the model or the data."""


class GalleryError(VetdinoError):
    """A gallery that is damaged or was built with another backbone."""


class TrainingError(VetdinoError):
    """A training that cannot continue."""


class ClusterError(VetdinoError):
    """A Ray cluster that does not answer, refuses, or cannot run a job."""
