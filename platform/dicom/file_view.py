"""One file outside of an archive: its bytes as the view that ingest would store.

The service and `Backbone.embed_study` read files this way, so that a study has the same vector there as in a feature
table.
"""

from __future__ import annotations

import io
import warnings
from functools import lru_cache

from ..core.errors import DicomError
from ..data.config import ShardConfig
from ..data.samples import stored_bits, stored_view
from ..data.study import StoredView
from .config import DicomConfig
from .header import check_radiograph, is_dicom, read_header
from .pixels import normalized_view, picture_pixels, picture_view, raw_pixels
from .screening import screened, with_known_search

_known_search = lru_cache(with_known_search)


def file_view(
    data: bytes, dicom: DicomConfig, shards: ShardConfig, megapixels: float | None = None
) -> StoredView:
    """The view of a DICOM file, a PNG or another picture: gates, window, text, size and encoding as in ingest.

    dicom: where its `search_text` is auto, it is decided as by ingest, once in a process. megapixels: of the image at
    most, by its header and before it is decoded; None: ingest's own limits. The view has no identifier: pixels,
    projection, laterality, modality, spacing and how the pixels were made. Raises DicomError; ConfigError where text is
    to be searched and the extra `ocr` is missing.
    """
    dicom, bits, dataset = _known_search(dicom), stored_bits(shards), None
    if is_dicom(data[:132]):
        dataset = read_header(data)
        check_radiograph(dataset, dicom)
        _check_size(dataset.Rows, dataset.Columns, megapixels)
        view = normalized_view(dataset, raw_pixels(dataset), dicom, bits)
    else:
        _check_size(*_picture_size(data), megapixels)
        view = picture_view(picture_pixels(data), dicom, bits)
    return stored_view(screened(view, dataset, dicom), shards)


def _check_size(height: int, width: int, megapixels: float | None) -> None:
    if megapixels is not None and height * width > megapixels * 1e6:
        raise DicomError("TOO_LARGE", f"{height}x{width} pixels, the limit is {megapixels:g} million")


def _picture_size(data: bytes) -> tuple[int, int]:
    """(height, width) by the header. Raises DicomError NOT_PICTURE."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as picture:
                return picture.height, picture.width
    except MemoryError:
        raise
    except Image.DecompressionBombError:
        raise DicomError("TOO_LARGE", "more pixels than any radiograph has") from None
    except Exception as error:  # Pillow raises many kinds where a file is damaged
        raise DicomError("NOT_PICTURE", type(error).__name__) from None
