"""What every training loop shares: schedules, parameter groups, checkpoints, Ray Train."""
