"""Generated radiographs of dogs and cats, as a DICOM archive."""
