"""`vetdino index COMMAND`: galleries for similar-study search."""
