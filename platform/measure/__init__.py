"""Features, nearest neighbors, metrics with intervals, saved predictions, plots."""
