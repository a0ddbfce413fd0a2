"""What watches a training: k-NN probe and collapse alarms."""
