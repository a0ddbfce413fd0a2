"""Generated abdominal CT and MRI scans, with organ labels."""
