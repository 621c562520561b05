"""Pipelined runs: the stages of a plan train a module on processes of `torch.distributed`."""
