"""All facets of a Vision Transformer in one pass against a pass for each of them; see benchmarks/README.md."""
