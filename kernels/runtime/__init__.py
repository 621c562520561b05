"""How kernels launch, how operations are registered, checks, fused torch loops, ahead-of-time compilation."""
