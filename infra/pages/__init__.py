"""Self-contained HTML pages: comparison of runs, model card."""
