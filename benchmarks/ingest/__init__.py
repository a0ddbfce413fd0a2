"""Files to views, against plain pydicom and Pillow."""
