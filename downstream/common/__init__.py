"""What every evaluation shares: backbones with their baselines, and the record of an experiment."""
