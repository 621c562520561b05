"""Numbers that several kernels compute: random draws, time encodings and dropout."""
