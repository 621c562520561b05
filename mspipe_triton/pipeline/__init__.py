"""Running, planning and tracing the stages of an iteration; this package knows stages, not models."""
