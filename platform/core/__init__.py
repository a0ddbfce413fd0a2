"""What every room stands on: errors, config, files, progress, runs."""
