"""One training step of ours against the same step built from lightly; see benchmarks/README.md."""
