"""Profiles: their content, their key, their store, their description."""
