"""The index of a million studies: its size, opening and memory; see benchmarks/README.md."""
