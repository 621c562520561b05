"""Triton kernel of `pair_features`: its searches and its columns."""

from __future__ import annotations

from mspipe_triton.kernels.runtime import spaces
from mspipe_triton.kernels.runtime.launch import Config, device_function, kernel, tl


@device_function
def _last(p_keys, start, count, b_owner, b_before):
    """Number of each owner's last event below b_before, from the ascending keys [start, start + count); −1 without one,
    and for a negative owner."""
    b_first = b_owner.to(tl.int64) << 32
    b_place = _last_below(p_keys, start, count, b_first + b_before)
    b_event = tl.load(p_keys + b_place, mask=b_place >= start, other=-1) - b_first
    return tl.where((b_owner >= 0) & (b_place >= start) & (b_event >= 0), b_event, -1)


@device_function
def _last_below(p_keys, start, count, b_bound):
    """Place of the last of the ascending keys [start, start + count) that is below the bound; start − 1 without one."""
    b_place = tl.zeros_like(b_bound) + start - 1
    rest = tl.cast(count, tl.int64)
    while rest > 0:
        step = (rest + 1) // 2
        b_place += tl.where(tl.load(p_keys + b_place + step) < b_bound, step, 0)
        rest -= step
    return b_place


@device_function
def _last_event(p_keys, older, newer, b_owner, b_before):
    """Number of each owner's last event below b_before, among older and newer events; −1 without one."""
    b_event = _last(p_keys, 0, older, b_owner, b_before)
    if newer > 0:
        b_event = tl.maximum(b_event, _last(p_keys, older, newer, b_owner, b_before))
    return b_event


@device_function
def _last_of_pair(p_pairs, p_keys, older_pairs, newer_pairs, older, newer, b_src, b_dst, b_before):
    """Number of the last event below b_before from b_src to b_dst, among older and newer events; −1 without one."""
    b_event = _last(p_keys, 0, older, _place(p_pairs, 0, older_pairs, b_src, b_dst), b_before)
    if newer > 0:
        b_place = _place(p_pairs, older_pairs, newer_pairs, b_src, b_dst)
        b_event = tl.maximum(b_event, _last(p_keys, older, newer, b_place, b_before))
    return b_event


@device_function
def _place(p_pairs, start, count, b_src, b_dst):
    """Place of each pair among the ascending pairs [start, start + count), −1 without one."""
    b_pair = (b_src.to(tl.int64) << 32) + b_dst
    b_place = _last_below(p_pairs, start, count, b_pair + 1)
    b_same = tl.load(p_pairs + b_place, mask=b_place >= start, other=-1) == b_pair
    return tl.where(b_same & (b_src >= 0) & (b_dst >= 0), b_place, -1)


@device_function
def _count(p_earlier, b_event, GROUP: tl.constexpr, COMPUTE: tl.constexpr):
    """Number of events in a group (0 source, 1 destination, 2 pair) up to its last one; 0 for −1."""
    return (tl.load(p_earlier + b_event * 3 + GROUP, mask=b_event >= 0, other=-1) + 1).to(COMPUTE)


@device_function
def _log1p(x):
    """log(1 + x) for x ≥ 0, as log(v) x / (v − 1) with the rounded v = 1 + x, whose error cancels; x if v is 1."""
    v = 1 + x
    return tl.where(v == 1, x, tl.log(v) * x / tl.where(v == 1, 1.0, v - 1))


@device_function
def _write(p_column, b_value, m_event, m_pair):
    """Write a column of the pairs: 0 where there is no event."""
    tl.store(p_column, tl.where(m_event, b_value, 0.0).to(p_column.dtype.element_ty), mask=m_pair)


@device_function
def _delta(p_times, b_time, b_event, COMPUTE: tl.constexpr):
    """Δ since the events; 0 for −1."""
    m_event = b_event >= 0
    b_delta = b_time - tl.load(p_times + b_event, mask=m_event, other=0)
    return tl.where(m_event & (b_delta > 0), b_delta, 0).to(COMPUTE)


@device_function
def _share(p_partners, b_event, b_count, GROUP: tl.constexpr):
    """Number of partners of the events' source (0) or destination (1) up to them, divided by their counts of events."""
    m_event = b_event >= 0
    b_partners = tl.load(p_partners + b_event * 2 + GROUP, mask=m_event, other=0)
    return b_partners.to(b_count.dtype) / tl.where(m_event, b_count, 1.0)


@device_function
def _write_recency(p_column, p_times, b_time, b_event, m_pair, tau_0, tau_1, tau_2):
    """Write L(Δ)/10 and 1/(1 + Δ/τ) to four columns."""
    m_event, b_delta = b_event >= 0, _delta(p_times, b_time, b_event, p_column.dtype.element_ty)
    _write(p_column, _log1p(b_delta) / 10, m_event, m_pair)
    _write(p_column + 1, tau_0 / (tau_0 + b_delta), m_event, m_pair)
    _write(p_column + 2, tau_1 / (tau_1 + b_delta), m_event, m_pair)
    _write(p_column + 3, tau_2 / (tau_2 + b_delta), m_event, m_pair)


@device_function
def _write_popularity(p_column, p_popularity, b_event, b_gap, span, m_new, m_pair, SPAN: tl.constexpr):
    """Write L(S)/3 of the SPANth span, and the same for sources that are new."""
    m_event = b_event >= 0
    b_sum = tl.load(p_popularity + b_event * 3 + SPAN, mask=m_event, other=0.0).to(p_column.dtype.element_ty)
    b_value = tl.where(m_event, _log1p(b_sum * tl.exp(b_gap / span)) / 3, 0.0)
    _write(p_column + 25 + SPAN, b_value, m_event, m_pair)
    _write(p_column + 29 + SPAN, b_value, m_new, m_pair)


@kernel(
    Config({"BLOCK": 32}, num_warps=1),
    Config({"BLOCK": 128}, num_warps=2),  # two searches per thread run at once
    space=spaces.FLAT,
)
def pair_features_kernel(
    p_source_keys, p_destination_keys, p_pairs, p_pair_keys, p_times, p_earlier, p_partners, p_popularity, p_src,
    p_dst, p_query_times, p_before, p_out, older, newer, older_pairs, newer_pairs, pairs, candidates,
    tau_0, tau_1, tau_2, span_0, span_1, span_2, BLOCK: tl.constexpr,
):  # fmt: skip
    """Columns of BLOCK pairs, in the order of dst [B, C]; see `PairFeatures` for their equations."""
    compute = p_out.dtype.element_ty
    i_pair = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # in 32 bits: features of more pairs fit no device
    m_pair = i_pair < pairs
    o_pair, o_query = i_pair.to(tl.int64), i_pair // candidates
    # Nodes and numbers of events stay in 32 bits, which saves registers.
    b_src = tl.load(p_src + o_query, mask=m_pair, other=-1).to(tl.int32)
    b_dst = tl.load(p_dst + o_pair, mask=m_pair, other=-1).to(tl.int32)
    m_real = (b_src >= 0) & (b_dst >= 0)
    b_src, b_dst = tl.where(m_real, b_src, -1), tl.where(m_real, b_dst, -1)
    b_before = tl.load(p_before + o_query, mask=m_pair, other=0).to(tl.int32)
    b_time = tl.load(p_query_times + o_query, mask=m_pair, other=0)
    p_column = p_out + o_pair * 36

    b_event = _last_event(p_source_keys, older, newer, b_src, b_before)
    m_event = b_event >= 0
    b_sent = _count(p_earlier, b_event, 0, compute)
    m_new = m_real & (b_sent == 0)
    _write(p_column + 33, _share(p_partners, b_event, b_sent, 0), m_event, m_pair)
    _write(p_column + 35, _log1p(_delta(p_times, b_time, b_event, compute)) / 10, m_event, m_pair)
    b_event = _last_event(p_destination_keys, older, newer, b_dst, b_before)
    m_event = b_event >= 0
    b_received = _count(p_earlier, b_event, 1, compute)
    _write(p_column + 34, _share(p_partners, b_event, b_received, 1), m_event, m_pair)
    b_gap = tl.where(m_event, b_event + 1 - b_before, 0).to(compute)
    _write(p_column + 20, m_event, m_event, m_pair)
    _write_recency(p_column + 21, p_times, b_time, b_event, m_pair, tau_0, tau_1, tau_2)
    _write(p_column + 28, m_new, m_new, m_pair)
    _write_popularity(p_column, p_popularity, b_event, b_gap, span_0, m_new, m_pair, 0)
    _write_popularity(p_column, p_popularity, b_event, b_gap, span_1, m_new, m_pair, 1)
    _write_popularity(p_column, p_popularity, b_event, b_gap, span_2, m_new, m_pair, 2)

    b_event = _last_of_pair(p_pairs, p_pair_keys, older_pairs, newer_pairs, older, newer, b_src, b_dst, b_before)
    m_event = b_event >= 0
    b_order = tl.where(m_event, b_sent + 1 - _count(p_earlier, b_event, 0, compute), 1.0)
    b_number = _count(p_earlier, b_event, 2, compute)
    _write(p_column, m_event, m_event, m_pair)
    _write(p_column + 1, b_order == 1, m_event, m_pair)
    _write(p_column + 2, b_order == 2, m_event, m_pair)
    _write(p_column + 3, 1 / b_order, m_event, m_pair)
    _write(p_column + 4, tl.log(b_order) / 5, m_event, m_pair)
    _write_recency(p_column + 5, p_times, b_time, b_event, m_pair, tau_0, tau_1, tau_2)
    _write(p_column + 9, _log1p(b_number) / 3, m_event, m_pair)
    _write(p_column + 10, b_number / tl.where(m_event, b_sent, 1.0), m_event, m_pair)
    _write(p_column + 32, b_number / tl.where(m_event, b_received, 1.0), m_event, m_pair)

    b_event = _last_of_pair(p_pairs, p_pair_keys, older_pairs, newer_pairs, older, newer, b_dst, b_src, b_before)
    m_event = b_event >= 0
    b_sent = _count(p_earlier, _last_event(p_source_keys, older, newer, b_dst, b_before), 0, compute)
    b_received = _count(p_earlier, _last_event(p_destination_keys, older, newer, b_src, b_before), 1, compute)
    b_order = tl.where(m_event, b_sent + 1 - _count(p_earlier, b_event, 0, compute), 1.0)
    b_place = tl.where(m_event, b_received + 1 - _count(p_earlier, b_event, 1, compute), 1.0)
    _write(p_column + 11, m_event, m_event, m_pair)
    _write_recency(p_column + 12, p_times, b_time, b_event, m_pair, tau_0, tau_1, tau_2)
    _write(p_column + 16, _log1p(_count(p_earlier, b_event, 2, compute)) / 3, m_event, m_pair)
    _write(p_column + 17, 1 / b_order, m_event, m_pair)
    _write(p_column + 18, 1 / b_place, m_event, m_pair)
    _write(p_column + 19, tl.log(b_place) / 5, m_event, m_pair)
