"""Memory updaters: the GRU of TGN and the RNN of JODIE, with row fetch and message build."""
