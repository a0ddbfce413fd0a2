"""Libraries that only an extra installs: which extra brings which, and one clear line where it is missing."""

from __future__ import annotations

from importlib.util import find_spec

from .errors import ConfigError

EXTRAS = {
    "ray": "train",
    "deepspeed": "train",
    "mlflow": "train",
    "webdataset": "train",
    "gradio": "serve",
    "fastapi": "serve",
    "uvicorn": "serve",
    "s3fs": "s3",
    "rapidocr": "ocr",
    "onnxruntime": "ocr",
    "httpx": "serve",
    "pebble": "serve",
}
"""Import name -> the extra of vetdino that installs it."""


def has_extra(library: str) -> bool:
    """Whether an optional library can be imported."""
    return find_spec(library) is not None


def require_extra(library: str, purpose: str) -> None:
    """Raises ConfigError naming the extra to install where `library`, a key of EXTRAS, is missing.

    purpose: what needs it, as the start of a sentence ("pretraining").
    """
    if not has_extra(library):
        raise ConfigError(f"{purpose} needs {library}: pip install 'vetdino[{EXTRAS[library]}]'")
