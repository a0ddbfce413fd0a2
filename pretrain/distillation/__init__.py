"""Student, teacher (EMA), heads and losses; the optimizer step under DeepSpeed and its checkpoints."""
