"""Tuning kernel configurations: recorded calls, their gate, and a search per kernel."""
