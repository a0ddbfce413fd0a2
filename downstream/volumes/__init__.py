"""CT and MRI scans, and stacks of pictures, in files of many kinds become oriented, normalised slices."""
