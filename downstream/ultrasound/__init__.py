"""Bone and other structures in b-mode ultrasound, found without a label."""
