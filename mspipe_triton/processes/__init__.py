"""Runs in several processes: their launcher, their start and meeting, and the watch that ends all when one dies."""
