"""Feature distillation: a student learns the CLS and patch tokens of a frozen teacher on images without labels."""
