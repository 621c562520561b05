"""Tuning a run's settings: their space, their gate, the measurement of a run."""
