"""How well an order of whole shards mixes, beside a permutation of all studies; see benchmarks/README.md."""
