"""Findings of studies read off features: k-NN, linear probe, fine-tuning."""
