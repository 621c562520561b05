"""Kernel launches, registration of operations, argument checks, fused torch loops and ahead-of-time compilation."""
