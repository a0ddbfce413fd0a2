"""Similar-study search with galleries of every kind of index; see benchmarks/README.md."""
