"""Tuning profiles: content, key, store and description."""
