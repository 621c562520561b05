"""Channels between processes: tensors that are sent and received in order, beside the computation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

OUTPUT, GRADIENT = 0, 1


@dataclass
class Channels:
    """Point-to-point messages of a process, of two kinds: outputs go down the DAG, gradients up.

    Messages of a kind between two processes arrive in the order in which they are sent. With NCCL, which has no tags
    and runs the operations of a group one after the other, each kind and pair has a group of its own.

    Args:
        pairs: all pairs of processes that exchange messages, in the same order in all processes.
        device: of the tensors.
    """

    pairs: Iterable[tuple[int, int]]
    device: torch.device
    _groups: dict[tuple[int, int, int], dist.ProcessGroup] = field(default_factory=dict)
    _outbox: dict[tuple[int, int], list[tuple[dist.Work, Tensor]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.device.type == "cuda":
            for one, other in self.pairs:
                for kind in (OUTPUT, GRADIENT):
                    group = dist.new_group([one, other])
                    self._groups[kind, one, other] = self._groups[kind, other, one] = group

    def send(self, kind: int, number: int, tensor: Tensor, process: int) -> None:
        """Start to send a tensor, as part of a pass of that number; `settle` ends it."""
        if tensor.numel():
            wire = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
            work = dist.isend(wire, process, group=self._group(kind, process), tag=kind)
            assert work is not None
            self._outbox.setdefault((kind, number), []).append((work, wire))

    def receive(self, kind: int, shape: Sequence[int], dtype: torch.dtype, process: int) -> Receipt:
        """Start to receive a tensor."""
        tensor = torch.empty(tuple(shape), dtype=dtype, device=self.device)
        work = None
        if tensor.numel():
            wire = tensor.view(-1).view(torch.uint8)
            work = dist.irecv(wire, process, group=self._group(kind, process), tag=kind)
        return Receipt(tensor, work)

    def settle(self, kind: int, number: int) -> None:
        """Wait until what a pass has sent has been received, and drop it."""
        for work, _ in self._outbox.pop((kind, number), ()):
            work.wait()

    def settle_all(self) -> None:
        """Wait until all that was sent has been received."""
        for key in list(self._outbox):
            self.settle(*key)

    def _group(self, kind: int, process: int) -> dist.ProcessGroup | None:
        return self._groups.get((kind, dist.get_rank(), process))


@dataclass(frozen=True)
class Receipt:
    """A tensor that is being received."""

    tensor: Tensor
    work: dist.Work | None

    def wait(self) -> Tensor:
        """Return the tensor once it is there."""
        if self.work is not None:
            self.work.wait()
        return self.tensor
