"""Vision Transformers: loading, tokens, attention, keys and queries of any block."""
