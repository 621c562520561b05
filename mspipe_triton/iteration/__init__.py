"""One iteration of a run: the scene of a batch, a model's step on it, and the two ways to make the scene."""
