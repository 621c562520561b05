"""Operations of temporal graph neural networks, importable alone: torch references today, one operation a file."""

if __name__ != "mspipe_triton.kernels":
    raise ImportError(
        f"this package installs as mspipe_triton.kernels, not as {__name__!r}: "
        "write `from mspipe_triton.kernels import memory_gru`"
    )

from mspipe_triton.kernels.aggregate_messages import aggregate_messages
from mspipe_triton.kernels.memory_gru import memory_gru
from mspipe_triton.kernels.sample_recent import sample_recent
from mspipe_triton.kernels.sample_uniform import sample_uniform
from mspipe_triton.kernels.temporal_attention import temporal_attention
from mspipe_triton.kernels.time_encoding import encode_time
from mspipe_triton.kernels.unique_nodes import unique_nodes

__all__ = [
    "aggregate_messages",
    "encode_time",
    "memory_gru",
    "sample_recent",
    "sample_uniform",
    "temporal_attention",
    "unique_nodes",
]
