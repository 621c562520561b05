"""Evaluation of a run: metrics, EdgeBank, the node task."""
