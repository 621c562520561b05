"""One iteration of a run: the scene of a batch, a model's step on it, and two ways to build the scene."""
