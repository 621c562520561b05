"""Tensors of uncommon kinds between processes: complex conjugates, and sparse gradients."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mspipe_triton.pipeline.graphpipe.run.channels import OUTPUT, Channels
from mspipe_triton.pipeline.graphpipe.run.replicas import sum_gradients
from tests.processes.pool import Pool

NUMBERS = torch.tensor([1 + 2j, 3 - 4j])


def conjugate() -> Tensor | None:
    """Send conjugates, which torch represents by a flag of the tensor, from process 0 to 1."""
    channels = Channels([(0, 1)], torch.device("cpu"))
    if dist.get_rank():
        return channels.receive(OUTPUT, NUMBERS.shape, NUMBERS.dtype, 0).wait()
    channels.send(OUTPUT, 0, NUMBERS.conj(), 1)
    channels.settle_all()
    return None


def gradients() -> list[Tensor]:
    """Sum a sparse gradient and a dense one."""
    table, weight = nn.Embedding(4, 2, sparse=True).weight, nn.Parameter(torch.ones(3))
    rank = dist.get_rank()
    nn.functional.embedding(torch.tensor([rank, 3, 3]), table, sparse=True).sum().backward()
    (weight * (rank + 1)).sum().backward()
    assert dist.group.WORLD is not None
    sum_gradients([table, weight], dist.group.WORLD)
    assert table.grad is not None
    assert weight.grad is not None
    assert table.grad.is_sparse
    return [table.grad.to_dense(), weight.grad]


def test_conjugates_cross(processes: Pool) -> None:
    assert processes(2, conjugate)[1].tolist() == [1 - 2j, 3 + 4j]


def test_sparse_gradients_are_summed(processes: Pool) -> None:
    for table, weight in processes(2, gradients):
        assert table.tolist() == [[1, 1], [1, 1], [0, 0], [4, 4]]
        assert weight.tolist() == [3, 3, 3]
