"""Memory updaters: the GRU of TGN and the RNN of JODIE, which also fetch rows and build messages."""
