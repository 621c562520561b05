"""Tuning a run's settings: search space, gate and measurement."""
