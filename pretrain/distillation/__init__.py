"""Student, teacher, heads and losses, and the DeepSpeed engine around them."""
