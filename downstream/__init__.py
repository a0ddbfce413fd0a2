"""What a frozen or tuned backbone is good for: each task takes features or a backbone and gives figures."""
