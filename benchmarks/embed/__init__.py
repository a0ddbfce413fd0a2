"""`vetdino embed` against a plain loop over the same network; see benchmarks/README.md."""
