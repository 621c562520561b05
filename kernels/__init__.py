"""Operations of temporal graph neural networks, importable alone: Triton kernels, and torch references for the CPU."""

if __name__ != "mspipe_triton.kernels":
    raise ImportError(
        f"this package installs as mspipe_triton.kernels, not as {__name__!r}: "
        "write `from mspipe_triton.kernels import memory_gru`"
    )

from mspipe_triton.kernels.aggregate_messages import aggregate_messages
from mspipe_triton.kernels.attention_layer import attention_layer
from mspipe_triton.kernels.checks import enable_debug
from mspipe_triton.kernels.deliver_mails import deliver_mails
from mspipe_triton.kernels.draw_batch import draw_batch
from mspipe_triton.kernels.dropout_scale import dropout_scale
from mspipe_triton.kernels.fetch_mail import fetch_mail
from mspipe_triton.kernels.gather_rows import gather_rows
from mspipe_triton.kernels.launch import use_triton
from mspipe_triton.kernels.link_loss import link_loss
from mspipe_triton.kernels.mailbox_attention import mailbox_attention
from mspipe_triton.kernels.memory_gru import memory_gru
from mspipe_triton.kernels.memory_rnn import memory_rnn
from mspipe_triton.kernels.patch_rows import patch_rows
from mspipe_triton.kernels.sample import sample_recent, sample_uniform
from mspipe_triton.kernels.temporal_attention import temporal_attention
from mspipe_triton.kernels.tgn_memory import FusedTGNMemory
from mspipe_triton.kernels.time_encoding import encode_time
from mspipe_triton.kernels.unique_nodes import unique_nodes

__all__ = [
    "FusedTGNMemory",
    "aggregate_messages",
    "attention_layer",
    "deliver_mails",
    "draw_batch",
    "dropout_scale",
    "enable_debug",
    "encode_time",
    "fetch_mail",
    "gather_rows",
    "link_loss",
    "mailbox_attention",
    "memory_gru",
    "memory_rnn",
    "patch_rows",
    "sample_recent",
    "sample_uniform",
    "temporal_attention",
    "unique_nodes",
    "use_triton",
]
