"""An archive of DICOM files or a table of pictures becomes shards."""
