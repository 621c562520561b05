"""Event streams: reading and writing, splits, neighbour and negative sampling, generation and description."""
