"""Is a machine, or a Ray cluster, ready for vetdino? Facts are gathered, then judged."""
