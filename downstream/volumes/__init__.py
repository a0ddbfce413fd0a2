"""CT and MRI scans, and stacks of pictures, read from files of many kinds and prepared as normalized slices."""
