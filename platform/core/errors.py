"""The errors that people meet. Each reaches the terminal as one line: what was found, where, what to do next.

An `assert` elsewhere in the house guards what only a mistake of ours could break.
"""


class VetdinoError(Exception):
    """Root of all errors meant for people."""


class ConfigError(VetdinoError):
    """A setting, a recipe or a command line that cannot be obeyed."""


class DataError(VetdinoError):
    """Input that cannot be used as it is."""


class DicomError(DataError):
    """One file that gives no view.

    `code` is one of the closed list in `dicom.CODES`; the message holds no identifier.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class ShardError(DataError):
    """A shard or manifest that is damaged, incomplete or not what was asked for."""


class FeaturesError(DataError):
    """A feature table that does not fit its backbone, its labels or itself."""


class CheckpointError(VetdinoError):
    """A checkpoint or backbone folder that is damaged or belongs to something else."""


class GalleryError(VetdinoError):
    """A gallery that is damaged or was built with another backbone."""


class TrainingError(VetdinoError):
    """A training that cannot go on."""
