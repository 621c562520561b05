"""Message aggregation and write-back: one record a node, from the events of a batch."""

from __future__ import annotations

import torch


def aggregate_messages(
    memory: torch.Tensor,
    memory_time: torch.Tensor,
    partner: torch.Tensor,
    event_id: torch.Tensor,
    mail_time: torch.Tensor,
    mail_features: torch.Tensor | None,
    src: torch.Tensor,
    dst: torch.Tensor,
    batch_event_ids: torch.Tensor,
    times: torch.Tensor,
    features: torch.Tensor | None,
    hidden: torch.Tensor,
    hidden_time: torch.Tensor,
    src_rows: torch.Tensor,
    dst_rows: torch.Tensor,
    mode: str = "last",
) -> None:
    """Write memory and compact mail of a batch's endpoints into the node tables, in place.

    For every endpoint u of the B events: memory(u) := h(u), its time := the time of the mail that h(u) digested; then
    u's mail is made of its events in the batch, partner row h(other endpoint), event id and time:

    * "last": the latest event wins; among equal times the one later in the file, src before dst inside an event.
    * "mean": mean partner row and mean feature row over the node's events, id and time of the latest; a self-loop
      counts twice.

    Args:
        memory, partner: [N, D]; memory_time, mail_time: [N] int64 or float64; event_id: [N] int64. Mutated.
        mail_features: [N, E], needed by "mean" where events have features; mutated. None otherwise.
        src, dst: [B] nodes, in time order; batch_event_ids: [B] int64; times: [B].
        features: [B, E], the events' feature rows; read by "mean" alone.
        hidden: h [U, D]; hidden_time: [U], the time that memory gets; src_rows, dst_rows: [B], the endpoints' rows in
            `hidden`. Equal nodes have equal rows.

    Raises:
        ValueError: `mode` is neither of the two.
    """
    if mode not in ("last", "mean"):
        raise ValueError(f"aggregate_messages: mode must be 'last' or 'mean', not {mode!r}")
    nodes = torch.stack([src, dst], 1).view(-1)
    rows = torch.stack([src_rows, dst_rows], 1).view(-1)
    partner_rows = torch.stack([dst_rows, src_rows], 1).view(-1)
    order = torch.arange(nodes.numel(), device=nodes.device)
    latest = torch.full((hidden.shape[0],), -1, device=nodes.device).scatter_reduce_(0, rows, order, "amax")
    written = (latest >= 0).nonzero().squeeze(1)
    winner = latest.index_select(0, written)
    targets = nodes.index_select(0, winner)
    events = winner >> 1

    memory.index_copy_(0, targets, hidden.index_select(0, written).to(memory.dtype))
    memory_time.index_copy_(0, targets, hidden_time.index_select(0, written))
    event_id.index_copy_(0, targets, batch_event_ids.index_select(0, events))
    mail_time.index_copy_(0, targets, times.index_select(0, events))
    if mode == "last":
        mail = hidden.index_select(0, partner_rows.index_select(0, winner))
    else:
        mail = _mean(hidden.index_select(0, partner_rows), rows, hidden.shape[0]).index_select(0, written)
        if mail_features is not None and features is not None:
            rows_of_features = _mean(features.repeat_interleave(2, 0), rows, hidden.shape[0])
            mail_features.index_copy_(0, targets, rows_of_features.index_select(0, written).to(mail_features.dtype))
    partner.index_copy_(0, targets, mail.to(partner.dtype))


def _mean(values: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """Mean of `values` [M, D] by `rows` [M], as [count, D]; rows without a value are 0."""
    total = values.new_zeros((count, values.shape[1])).index_add_(0, rows, values)
    number = values.new_zeros(count).index_add_(0, rows, torch.ones_like(rows, dtype=values.dtype))
    return total / number.clamp(min=1).unsqueeze(1)
