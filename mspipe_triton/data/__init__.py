"""Event streams: what they are, how they are read, split, sampled from, made and described."""
