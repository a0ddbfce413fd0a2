"""Jobs on a Ray cluster: vetdino packed for it, the cluster found, a job followed."""
