"""One file, DICOM or picture, becomes one view."""
