"""Training: runs, their entry and placement, checkpoints and run folders."""
