"""Few-shot segmentation of organs in CT and MRI from one labeled scan or a few."""
