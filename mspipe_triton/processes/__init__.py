"""Runs in several processes: their launcher, their part in a run, and the watch that ends all when one dies."""
