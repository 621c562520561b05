"""Replicas of a stage: equal state at the start, and gradients summed over the processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET = 2**25  # bytes of gradients that are summed in one operation


def broadcast(tensors: Iterable[Tensor], source: int, group: dist.ProcessGroup) -> None:
    """Copy the tensors of one process to all others of its group."""
    for each in tensors:
        value = each.detach().contiguous()
        dist.broadcast(value, source, group=group)
        each.detach().copy_(value)


def sum_gradients(parameters: Iterable[nn.Parameter], group: dist.ProcessGroup) -> None:
    """Sum the gradients of all processes of a group, dense ones several at a time."""
    gradients = [(each, each.grad) for each in parameters if each.grad is not None]
    for parameter, gradient in gradients:
        if gradient.is_sparse:
            parameter.grad = gradient.coalesce()
            dist.all_reduce(parameter.grad, group=group)
    for bucket in _buckets([gradient for _, gradient in gradients if not gradient.is_sparse]):
        whole = torch.cat([each.reshape(-1) for each in bucket])
        dist.all_reduce(whole, group=group)
        for each, part in zip(bucket, whole.split([each.numel() for each in bucket]), strict=True):
            each.copy_(part.view_as(each))


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return tensors of one type and device in groups of about `BUCKET` bytes."""
    result: list[list[Tensor]] = []
    for each in sorted(tensors, key=lambda tensor: str(tensor.dtype)):
        last = result[-1] if result else []
        full = sum(one.nbytes for one in last) + each.nbytes > BUCKET
        if not last or full or last[0].dtype != each.dtype:
            result.append([])
        result[-1].append(each)
    return result
