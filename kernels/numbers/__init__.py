"""Numbers that several families compute inside their kernels: random draws, time encodings, dropout."""
