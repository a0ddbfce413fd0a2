"""Pretraining: pairs of views -> crops -> student and teacher -> a backbone folder."""
