"""Errors for people share one base, and a refused file carries its code."""

from __future__ import annotations

import pytest

from vetdino.platform.core import errors
from vetdino.platform.core.errors import DataError, DicomError, VetdinoError


def test_every_error_has_the_base_that_the_command_line_catches():
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(classes) > 5
    assert all(issubclass(cls, VetdinoError) for cls in classes)


@pytest.mark.parametrize(("detail", "message"), [("", "NOT_DICOM"), ("no mark", "NOT_DICOM: no mark")])
def test_a_refused_file_has_a_code_and_perhaps_a_detail(detail, message):
    error = DicomError("NOT_DICOM", detail)
    assert (error.code, error.detail, str(error)) == ("NOT_DICOM", detail, message)
    assert isinstance(error, DataError)
