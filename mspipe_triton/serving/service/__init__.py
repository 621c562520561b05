"""The predictor as a service: a log of events, snapshots, an engine that owns the state, and its front over HTTP."""
