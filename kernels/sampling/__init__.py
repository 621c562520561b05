"""Sampling of batches and temporal neighbours, and deduplication of nodes."""
