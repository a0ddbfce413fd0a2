"""Nearest neighbors by `platform.measure.neighbors` against scikit-learn's brute force; see benchmarks/README.md."""
