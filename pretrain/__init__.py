"""Pretraining: pairs of views -> crops -> student and teacher (self-distillation) -> a backbone folder."""
