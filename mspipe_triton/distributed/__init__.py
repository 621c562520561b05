"""Ranks of a data-parallel run: their shares of a batch, and what they exchange."""
