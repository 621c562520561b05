"""Tuning kernel configurations: recorded calls, their gate, the search per kernel."""
