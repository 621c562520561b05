"""Triton kernels of temporal graph neural networks, with torch references for the CPU; usable on their own."""

if __name__ != "mspipe_triton.kernels":
    raise ImportError(
        f"this package installs as mspipe_triton.kernels, not as {__name__!r}: "
        "write `from mspipe_triton.kernels import memory_gru`"
    )

from mspipe_triton.kernels.attention.layer import attention_layer
from mspipe_triton.kernels.attention.mailbox import mailbox_attention
from mspipe_triton.kernels.attention.temporal import temporal_attention
from mspipe_triton.kernels.link.loss import link_loss
from mspipe_triton.kernels.link.pair_features import pair_features
from mspipe_triton.kernels.mails.aggregate import aggregate_messages
from mspipe_triton.kernels.mails.deliver import deliver_mails
from mspipe_triton.kernels.mails.fetch import fetch_mail
from mspipe_triton.kernels.mails.gather_rows import gather_rows
from mspipe_triton.kernels.mails.patch import patch_rows
from mspipe_triton.kernels.numbers.dropout_scale import dropout_scale
from mspipe_triton.kernels.numbers.time_encoding import encode_time
from mspipe_triton.kernels.pyg import FusedTGNMemory
from mspipe_triton.kernels.runtime.checks import enable_debug
from mspipe_triton.kernels.runtime.launch import use_triton
from mspipe_triton.kernels.sampling.draw_batch import draw_batch
from mspipe_triton.kernels.sampling.historical_negatives import historical_negatives
from mspipe_triton.kernels.sampling.sample import sample_recent, sample_uniform
from mspipe_triton.kernels.sampling.unique_nodes import unique_nodes
from mspipe_triton.kernels.updaters.gru import memory_gru
from mspipe_triton.kernels.updaters.rnn import memory_rnn

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
    "historical_negatives",
    "link_loss",
    "mailbox_attention",
    "memory_gru",
    "memory_rnn",
    "pair_features",
    "patch_rows",
    "sample_recent",
    "sample_uniform",
    "temporal_attention",
    "unique_nodes",
    "use_triton",
]
