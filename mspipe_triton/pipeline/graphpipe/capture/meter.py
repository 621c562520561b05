"""Counts of work: operations, memory traffic and rows of every kernel that torch starts, on tensors without data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from mspipe_triton.pipeline.graphpipe.costs import Accelerator, total
from mspipe_triton.pipeline.graphpipe.operators import Duration

aten = torch.ops.aten
FLOPS = {
    aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
    **flop_registry,
}
LOOKUPS = {aten.embedding, aten._embedding_bag, aten._embedding_bag_forward_only}
WITHOUT_WORK = {
    aten.empty,
    aten.empty_like,
    aten.empty_strided,
    aten.new_empty,
    aten.new_empty_strided,
    torch.ops.prim.device,
}


class Kernel(NamedTuple):
    """A kernel's work: operations, bytes that it reads and writes, and rows, columns and depth of a matmul."""

    flops: int
    traffic: int
    rows: tuple[int, ...]


class Meter(TorchDispatchMode):
    """Records the kernels that torch starts while it is active."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels: list[Kernel] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and record it unless it only makes a view or is made of others, which are recorded."""
        kwargs = kwargs or {}
        packet = getattr(func, "overloadpacket", None)
        if packet is None or packet in WITHOUT_WORK:
            return func(*args, **kwargs)
        if packet not in FLOPS:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if func.is_view:
            return result
        tensors = [each for each in tree_leaves((args, dict(kwargs))) if isinstance(each, Tensor)]
        results = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        read = sum(size(each) for each in tensors)
        if packet in LOOKUPS:
            table, indices = tensors[:2]
            read = size(indices) + indices.numel() * table[0].numel() * table.element_size()
        flops = FLOPS[packet](*args, **kwargs, out_val=result) if packet in FLOPS else 0
        rows = _rows(packet, args, results[0]) if flops else ()
        self.kernels.append(Kernel(flops, read + sum(size(each) for each in results), rows))
        return result


def size(tensor: Tensor) -> int:
    """Return the bytes of a tensor's elements."""
    return tensor.numel() * tensor.element_size()


def _rows(packet: Any, args: Sequence[Any], result: Tensor) -> tuple[int, ...]:
    """Return the sizes of a kernel with operations that may be proportional to the samples."""
    if packet in (aten.mm, aten.addmm):
        one, other = args[-2:]
        return (one.shape[0], one.shape[1], other.shape[1])
    if "convolution" in packet.__name__:
        image = args[0] if "backward" in packet.__name__ else result
        return (image.numel() // image.shape[1],)
    return (result.numel() // result.shape[-1],)


def estimate(
    accelerator: Accelerator, small: Sequence[Kernel], large: Sequence[Kernel], batches: tuple[int, int]
) -> Duration:
    """Return the time of a pass on an accelerator, from its kernels with two batches.

    Args:
        accelerator: the device.
        small: the kernels with the smaller batch.
        large: the same kernels with the larger one.
        batches: the samples of both.
    """
    durations = []
    for one, other in zip(small, large, strict=True):
        flops, fixed_flops = line(batches, (one.flops, other.flops))
        traffic, fixed_traffic = line(batches, (one.traffic, other.traffic))
        rows = next((a for a, b in zip(one.rows, other.rows, strict=True) if b > a), batches[0]) / batches[0]
        duration = accelerator.duration(flops, traffic, fixed_traffic, rows=rows)
        durations.append(Duration(duration.fixed + fixed_flops / accelerator.flops, duration.per_sample))
    return total(*durations)


def line(batches: tuple[int, int], values: tuple[float, float]) -> tuple[float, float]:
    """Return slope and intercept, both at least 0, of the line through two values.

    Where the line would have a negative one, the other follows from the value of the larger batch.
    """
    slope = (values[1] - values[0]) / (batches[1] - batches[0])
    if slope <= 0:
        return 0.0, values[1]
    intercept = values[0] - slope * batches[0]
    return (slope, intercept) if intercept >= 0 else (values[1] / batches[1], 0.0)
