"""Sampling: the next batch, temporal neighbours, distinct nodes."""
