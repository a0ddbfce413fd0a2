"""The nearest neighbours by `platform.neighbours` against scikit-learn's brute force; see benchmarks/README.md."""
