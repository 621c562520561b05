"""A drop-in for PyG's TGNMemory that keeps messages in node tables and updates memory in one operation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mspipe_triton.kernels.numbers.time_encoding import encode_time
from mspipe_triton.kernels.runtime import checks
from mspipe_triton.kernels.updaters.gru import memory_gru

_NEVER = -(2**63)  # the mail time of a node without mail
_MAIL = ("mail_time", "mail_partner", "mail_message")


class TimeEncoder(nn.Module):
    """φ(t) = cos(w·t + b), with learned w and b [out_channels]; parameters `lin.weight` and `lin.bias` as in PyG."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.lin = nn.Linear(1, out_channels)

    def reset_parameters(self) -> None:
        """Initialise w and b randomly."""
        self.lin.reset_parameters()

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """Encode t [M] as φ [M, out_channels]."""
        encoded: torch.Tensor = encode_time(t.reshape(-1), self.lin.weight.view(-1), self.lin.bias)
        return encoded


class FusedTGNMemory(nn.Module):
    """Drop-in replacement for `torch_geometric.nn.TGNMemory` with IdentityMessage and LastAggregator.

    A node keeps one mail per role: its latest event as a source, from the last batch that had any, and likewise as a
    destination. A mail is partner, time and raw message. When node n is read, the later of its two mails becomes

        x = [memory(n) ‖ memory(partner) ‖ raw message ‖ φ(t − last_update(n))]    and    h(n) = GRU(x, memory(n)),

    with the current memories of both, and x = 0 for a node without mail. `memory_gru` does this in one operation. PyG
    keeps all messages of the batch in two Python dicts and builds every message before it selects one.

    Constructor, methods, parameters and gradients are PyG's; the same seed gives the same parameters. PyG's state dict
    can be loaded, including `memory` and `last_update`. Differences:

    * The mails are buffers: they move with the module and are part of the state dict (PyG does not save messages).
    * A raw message gets no gradient. `raw_msg_dim` may be 0.
    * Equal times: the mail as destination wins, and within a role the later event. PyG without `torch_scatter` does
      the same on the CPU; elsewhere PyG does not specify it.
    * Without `torch_scatter`, PyG (as of 2.8) gives a node without messages another node's message if the nodes read
      have at least as many messages as there are nodes. Here, and in PyG with `torch_scatter`, x = 0 for such a node.

    Args:
        num_nodes: N. raw_msg_dim, memory_dim, time_dim: widths E, D, T.
        message_module, aggregator_module: PyG's IdentityMessage and LastAggregator, or None.

    Raises:
        ValueError: an unsupported module, or a message module of another width.
    """

    memory: torch.Tensor
    last_update: torch.Tensor
    mail_time: torch.Tensor
    mail_partner: torch.Tensor
    mail_message: torch.Tensor

    def __init__(
        self,
        num_nodes: int,
        raw_msg_dim: int,
        memory_dim: int,
        time_dim: int,
        message_module: Any = None,
        aggregator_module: Any = None,
    ) -> None:
        super().__init__()
        width = raw_msg_dim + 2 * memory_dim + time_dim
        for name, module, supported in (
            ("message_module", message_module, "IdentityMessage"),
            ("aggregator_module", aggregator_module, "LastAggregator"),
        ):
            kind = type(module)
            if module is not None and (
                kind.__name__ != supported or not kind.__module__.startswith("torch_geometric.")
            ):
                raise ValueError(
                    f"FusedTGNMemory: {name} is a {type(module).__name__}; give PyG's {supported} or None, "
                    "or use PyG's TGNMemory"
                )
        if message_module is not None and message_module.out_channels != width:
            raise ValueError(
                f"FusedTGNMemory: message_module makes messages of width {message_module.out_channels}, but "
                f"raw_msg_dim + 2·memory_dim + time_dim is {width}; give both the same widths"
            )
        self.num_nodes = num_nodes
        self.raw_msg_dim = raw_msg_dim
        self.memory_dim = memory_dim
        self.time_dim = time_dim
        self.time_enc = TimeEncoder(time_dim)
        self.gru = nn.GRUCell(width, memory_dim)
        self.register_buffer("memory", torch.empty(num_nodes, memory_dim))
        self.register_buffer("last_update", torch.empty(num_nodes, dtype=torch.int64))
        # Row n is node n's mail as a source, row N + n its mail as a destination.
        self.register_buffer("mail_time", torch.empty(2 * num_nodes, dtype=torch.int64))
        self.register_buffer("mail_partner", torch.empty(2 * num_nodes, dtype=torch.int64))
        self.register_buffer("mail_message", torch.empty(2 * num_nodes, raw_msg_dim))
        self.reset_parameters()

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.time_enc.lin.weight.device

    def reset_parameters(self) -> None:
        """Initialise all parameters randomly and reset the state."""
        self.time_enc.reset_parameters()
        self.gru.reset_parameters()
        self.reset_state()

    def reset_state(self) -> None:
        """Reset memory and times to 0 and delete all mail."""
        self.memory.detach_().zero_()
        self.last_update.zero_()
        self._reset_mail()

    def detach(self) -> None:
        """Detach the memory from its autograd graph; until then, gradients flow through the writes of update_state."""
        self.memory.detach_()

    def forward(self, n_id: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return memory [U, D] and last update [U] of nodes n_id [U], in training after digesting their mail.

        Nothing is written.
        """
        checks.dtype("FusedTGNMemory", checks.INTEGERS, n_id=n_id)
        checks.within("FusedTGNMemory", "n_id", n_id, self.num_nodes)
        n_id = n_id.to(self.device)
        if self.training:
            return self._digested_memory(n_id)
        return self.memory.index_select(0, n_id), self.last_update.index_select(0, n_id)

    def update_state(self, src: torch.Tensor, dst: torch.Tensor, t: torch.Tensor, raw_msg: torch.Tensor) -> None:
        """Update the state with a batch of events: src, dst, t [B] integers, raw_msg [B, E].

        In training, the batch's nodes first digest their stored mail and then receive this batch's; in evaluation they
        receive this batch's first and digest it at once.

        Raises:
            ValueError: ids or times that are not integers, or messages of another shape.
        """
        checks.dtype("FusedTGNMemory.update_state", checks.INTEGERS[::-1], src=src, dst=dst, t=t)
        shapes = [tuple(tensor.shape) for tensor in (src, dst, t)]
        if shapes != [(src.numel(),)] * 3:
            raise ValueError(
                f"FusedTGNMemory.update_state: src, dst and t are {', '.join(map(str, shapes))}; give equal lengths"
            )
        if raw_msg.shape != (src.numel(), self.raw_msg_dim):
            raise ValueError(
                f"FusedTGNMemory.update_state: raw_msg is {tuple(raw_msg.shape)}, "
                f"not {(src.numel(), self.raw_msg_dim)}; give one row per event of raw_msg_dim numbers"
            )
        src, dst, t = (tensor.to(self.device, torch.int64) for tensor in (src, dst, t))
        for name, nodes in (("src", src), ("dst", dst)):
            checks.within("FusedTGNMemory.update_state", name, nodes, self.num_nodes)
        if self.training:
            self._digest(src, dst)
            self._post(src, dst, t, raw_msg)
        else:
            self._post(src, dst, t, raw_msg)
            self._digest(src, dst)

    def train(self, mode: bool = True) -> FusedTGNMemory:
        """Set the mode. When training ends, every node digests its mail and the mailbox is emptied."""
        if self.training and not mode:
            h, times = self._digested_memory(torch.arange(self.num_nodes, device=self.device))
            self.memory.copy_(h)
            self.last_update.copy_(times)
            self._reset_mail()
        super().train(mode)
        return self

    def _digested_memory(self, n_id: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """h [U, D] of the nodes after digesting their mail, and the mail times [U], 0 without mail (as in PyG)."""
        as_src, as_dst = self.mail_time.index_select(0, n_id), self.mail_time.index_select(0, n_id + self.num_nodes)
        rows = torch.where(as_dst >= as_src, n_id + self.num_nodes, n_id)
        times = torch.maximum(as_src, as_dst)
        has_mail = times != _NEVER
        times = torch.where(has_mail, times, 0)
        deltas = (times - self.last_update.index_select(0, n_id)).to(self.memory.dtype)
        h = memory_gru(
            self.memory, n_id, self.memory, self.mail_partner.index_select(0, rows), self.mail_message, rows,
            deltas, has_mail, self.time_enc.lin.weight.view(-1), self.time_enc.lin.bias,
            self.gru.weight_ih, self.gru.weight_hh, self.gru.bias_ih, self.gru.bias_hh, empty="update",
        )  # fmt: skip
        return h, times

    def _digest(self, src: torch.Tensor, dst: torch.Tensor) -> None:
        """Write h of the batch's nodes. `unique` would wait for the device, so duplicates of a node write its first
        row, and only the first carries the gradient."""
        nodes = torch.cat([src, dst]).sort().values
        first = torch.searchsorted(nodes, nodes)
        h, times = self._digested_memory(nodes)
        is_first = (first == torch.arange(nodes.numel(), device=nodes.device)).unsqueeze(1)
        h = torch.where(is_first, h, h.detach().index_select(0, first))
        self.memory.index_copy_(0, nodes, h)
        self.last_update.index_copy_(0, nodes, times)

    @torch.no_grad()
    def _post(self, src: torch.Tensor, dst: torch.Tensor, t: torch.Tensor, raw_msg: torch.Tensor) -> None:
        """Write the latest event of each mail row that the batch touches; duplicates of a row write the same values."""
        event = torch.arange(src.numel(), device=src.device).flip(0)
        event = event[t[event].argsort(descending=True, stable=True)]  # latest first, at equal times the later event
        rows, order = torch.cat([src[event], dst[event] + self.num_nodes]).sort(stable=True)
        winner = order[torch.searchsorted(rows, rows)]
        partner, event = torch.cat([dst[event], src[event]])[winner], event.repeat(2)[winner]
        self.mail_partner.index_copy_(0, rows, partner)
        self.mail_time.index_copy_(0, rows, t[event])
        self.mail_message.index_copy_(0, rows, raw_msg.to(self.mail_message)[event])

    def _reset_mail(self) -> None:
        self.mail_time.fill_(_NEVER)
        self.mail_partner.zero_()
        self.mail_message.zero_()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # PyG's state dict has an extra scratch table and no messages.
        if state_dict.pop(f"{prefix}_assoc", None) is not None:
            self._reset_mail()
            state_dict.update({f"{prefix}{name}": getattr(self, name) for name in _MAIL})
        super()._load_from_state_dict(state_dict, prefix, *args)
