"""Running the stages of an iteration; knows stages, not models."""
