"""Evaluation of a run: metrics, baselines, the node task."""
