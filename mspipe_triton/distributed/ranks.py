"""Ranks: the processes that train one model together, and the exchanges among them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.utils._pytree import tree_leaves, tree_map_only

from mspipe_triton.errors import MspipeError

T = TypeVar("T")
_ALIGNMENT = 8  # bytes
_PIECE = 2**26  # bytes of a broadcast


@dataclass
class Traffic:
    """Bytes that a rank receives, its own included: of gathered rows, and of gradients."""

    gathered: int = 0
    reduced: int = 0

    def add(self, gathered: int, reduced: int) -> None:
        """Count further bytes."""
        self.gathered += gathered
        self.reduced += reduced

    def set(self, other: Traffic) -> None:
        """Go back to a former count."""
        self.gathered, self.reduced = other.gathered, other.reduced


@dataclass(frozen=True)
class Ranks:
    """This process among the ranks of a run; `ALONE` for a run of one process, which exchanges nothing.

    All ranks call the methods that exchange something, in the same order.

    Args:
        rank: this process's number; rank 0 writes and prints. count: the number of ranks.
        device: of the tensors that are exchanged.
        traffic: counts the bytes.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    traffic: Traffic = field(default_factory=Traffic)

    @staticmethod
    def of_group(device: torch.device) -> Ranks:
        """Return the ranks of the default process group of `torch.distributed`."""
        return Ranks(distributed.get_rank(), distributed.get_world_size(), device)

    @property
    def alone(self) -> bool:
        """True if no other rank exists."""
        return self.count == 1

    @property
    def first(self) -> bool:
        """True in rank 0."""
        return self.rank == 0

    def share(self, size: int) -> int:
        """Return C, the places per rank in a batch of `size` events: rank r has the events from r·C on."""
        return -(-size // self.count)

    def gather(self, parts: Sequence[torch.Tensor]) -> Gathering:
        """Start to gather tensors, which have the same shapes and dtypes in all ranks, in one exchange."""
        parts = [part.detach().contiguous() for part in parts]
        sizes = [part.numel() * part.element_size() for part in parts]
        places = [_aligned(size) for size in sizes]
        message = torch.empty(sum(places), dtype=torch.uint8, device=self.device)
        for part, place, size in zip(parts, message.split(places), sizes, strict=True):
            place[:size].copy_(part.view(-1).view(torch.uint8))
        everything = message.new_empty((self.count, message.numel()))
        self.traffic.gathered += everything.numel()
        if self.alone:
            everything.copy_(message)
            return Gathering(everything, message, parts, None)
        return Gathering(everything, message, parts, _all_gather(everything.view(-1), message, async_op=True))

    def reduce(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace tensors of one dtype by their sums over all ranks, with the same bits in each of them."""
        tensors = list(tensors)
        if self.alone or not tensors:
            return
        whole = torch.cat([each.reshape(-1) for each in tensors])
        self.traffic.reduced += whole.numel() * whole.element_size()
        distributed.all_reduce(whole)
        sums = whole.split([each.numel() for each in tensors])
        torch._foreach_copy_(tensors, [part.view_as(each) for part, each in zip(sums, tensors, strict=True)])

    def any(self, flag: bool) -> bool:
        """Return True if the flag of any rank is True."""
        if self.alone:
            return flag
        total = torch.tensor([int(flag)], device=self.device)
        distributed.all_reduce(total)
        return bool(total)

    def from_first(self, make: Callable[[], T]) -> T:
        """Return what `make` returns in rank 0, which alone calls it; for small values that can be pickled.

        Raises:
            MspipeError: `make` has raised it; then all ranks do.
        """
        if self.alone:
            return make()
        values: list[Any] = [None, None]
        if self.first:
            try:
                values[0] = make()
            except MspipeError as error:
                values[1] = error
        distributed.broadcast_object_list(values, device=self.device)
        if values[1] is not None:
            raise values[1]
        value: T = values[0]
        return value

    def from_all(self, value: T) -> list[T]:
        """Return each rank's value, by rank; for small values that can be pickled."""
        if self.alone:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def copy_from_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Fill tensors with those of rank 0, in pieces: a table of the host may be larger than the ranks' device."""
        for each in tensors if not self.alone else ():
            whole = each.detach().contiguous()
            for part in whole.view(-1).view(torch.uint8).split(_PIECE) if each.numel() else ():
                piece = part.to(self.device)
                distributed.broadcast(piece, 0)
                part.copy_(piece)
            if not each.is_contiguous():
                each.detach().copy_(whole)

    def content_from_first(self, make: Callable[[], T]) -> T:
        """Return what `make` returns in rank 0: dicts and lists of small values and of tensors of any size on the CPU.

        Raises:
            MspipeError: `make` has raised it; then all ranks do.
        """
        if self.alone:
            return make()
        content: Any = None

        def outline() -> Any:
            nonlocal content
            content = make()
            return tree_map_only(torch.Tensor, lambda each: each.to("meta"), content)

        shape = self.from_first(outline)
        if not self.first:
            content = tree_map_only(torch.Tensor, lambda each: torch.empty_like(each, device="cpu"), shape)
        self.copy_from_first(each for each in tree_leaves(content) if isinstance(each, torch.Tensor))
        result: T = content
        return result


ALONE = Ranks()


@dataclass(frozen=True)
class Gathering:
    """An exchange under way: the bytes of all ranks [N, ·], those of this one and its parts, and the work to wait for.

    Keep it until the device is done with the parts, since another stream may wait for them than the one that sent them.
    """

    everything: torch.Tensor
    message: torch.Tensor
    parts: Sequence[torch.Tensor]
    work: distributed.Work | None

    def wait(self) -> list[torch.Tensor]:
        """Return each part of all ranks [N, *shape], on the ranks' device."""
        if self.work is not None:
            self.work.wait()
        result, start = list[torch.Tensor](), 0
        for part in self.parts:
            size = part.numel() * part.element_size()
            rows = self.everything[:, start : start + size].reshape(-1)
            result.append(rows.view(part.dtype).view(self.everything.shape[0], *part.shape))
            start += _aligned(size)
        return result


def _aligned(size: int) -> int:
    return math.ceil(size / _ALIGNMENT) * _ALIGNMENT


def _all_gather(output: torch.Tensor, message: torch.Tensor, async_op: bool) -> distributed.Work | None:
    """Gather messages of one size; torch 2.13 renames the function."""
    function = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
    work: distributed.Work | None = function(output, message, async_op=async_op)
    return work
