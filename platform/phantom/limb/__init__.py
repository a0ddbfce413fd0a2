"""Generated b-mode ultrasound of limbs, with bone masks."""
