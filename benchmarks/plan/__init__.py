"""`vetdino plan` against training steps on this machine's CPU."""
