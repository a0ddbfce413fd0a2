"""Monitoring of a training: k-NN probe and collapse alarms."""
