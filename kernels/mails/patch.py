"""Patches of fetched records with rows that in-flight iterations have written since."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from mspipe_triton.kernels.runtime import checks, spaces
from mspipe_triton.kernels.runtime.launch import Config, cdiv, device_function, kernel, pow2, tl
from mspipe_triton.kernels.runtime.operation import operation
from mspipe_triton.kernels.sampling.unique_nodes import stamps

_NAME = "patch_rows"


class Patch(NamedTuple):
    """Replace rows that were fetched too early by the last rows written for the same nodes, in place.

    stale[k][u] := fresh[k][p], bit for bit, where p is the largest index with fresh_nodes[p] = nodes[u]; a row without
    a match is unchanged. All tensors of a record use the same match, so records stay consistent. The schedule `exact`
    patches prefetched records just before training with the records that in-flight iterations have written, in order,
    and so trains on the same inputs as sequential training.

    Args:
        stale: K tensors [U, ...], the parts of the fetched records; mutated. Each has any width and any dtype of
            float32, float64, bfloat16, int32 and int64.
        nodes: [U] integer, the node of each row; a negative one is padding, whose row is unchanged.
        fresh: K tensors [P, ...], the same parts of the written records, which do not overlap `stale`.
        fresh_nodes: [P] integer, in the order of writing; a negative one is padding, whose row is not used. On the CPU
            the work is O(U + P), with a scratch table per thread of 8 bytes per node up to the largest id.

    Nothing is differentiable.

    Raises:
        ValueError: lists of different lengths, parts of different shapes or dtypes, a wrong layout or device.
    """

    stale: Sequence[torch.Tensor]
    nodes: torch.Tensor
    fresh: Sequence[torch.Tensor]
    fresh_nodes: torch.Tensor


def _reference(args: Patch) -> None:
    """Match without sorting: every fresh row stamps its index on its node, and the largest stays."""
    stale, nodes, fresh, fresh_nodes = args
    if nodes.numel() == 0 or fresh_nodes.numel() == 0:
        return
    slot, fresh_slot = ((part.long() + 1).clamp_(min=0) for part in (nodes, fresh_nodes))  # all padding shares slot 0
    stamp = stamps(int(torch.maximum(slot.max(), fresh_slot.max())) + 1, nodes.device)
    stamp.index_fill_(0, slot, -1)
    stamp.scatter_reduce_(0, fresh_slot, torch.arange(fresh_slot.numel(), device=nodes.device), "amax")
    stamp[0] = -1
    latest = stamp.index_select(0, slot)
    matched = (latest >= 0).nonzero().squeeze(1)
    source = latest.index_select(0, matched)
    for old, new in zip(stale, fresh, strict=True):
        old.index_copy_(0, matched, new.index_select(0, source))


@device_function
def copy_matches(
    p_stale, p_fresh, o_row, b_match,
    STALE_STRIDE: tl.constexpr, FRESH_STRIDE: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """stale[o_row] := fresh[b_match] for rows of WIDTH elements, where b_match [BLOCK] is not negative."""
    SPAN: tl.constexpr = PADDED if PADDED < COLUMNS else COLUMNS
    o_stale = o_row.to(tl.int64)[:, None] * STALE_STRIDE
    o_fresh = b_match.to(tl.int64)[:, None] * FRESH_STRIDE
    for o_column in range(0, WIDTH, SPAN):
        i_column = o_column + tl.arange(0, SPAN)[None, :]
        m_cell = (b_match >= 0)[:, None] & (i_column < WIDTH)
        tl.store(p_stale + o_stale + i_column, tl.load(p_fresh + o_fresh + i_column, mask=m_cell), mask=m_cell)


@kernel(
    Config({"BLOCK": 16, "CHUNK": 128, "COLUMNS": 128}, num_warps=4),
    Config({"BLOCK": 32, "CHUNK": 128, "COLUMNS": 128}, num_warps=8),
    Config({"BLOCK": 8, "CHUNK": 256, "COLUMNS": 128}, num_warps=4),
    space={**spaces.SCAN, **spaces.COLUMNS},
)
def patch_kernel(
    p_nodes, p_fresh_nodes, p_stale, p_fresh, num_nodes, num_fresh,
    STALE_STRIDES: tl.constexpr, FRESH_STRIDES: tl.constexpr, WIDTHS: tl.constexpr, PADDED: tl.constexpr,
    BLOCK: tl.constexpr, CHUNK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """stale[k][u] := fresh[k][max {p : fresh_nodes[p] = nodes[u]}] for all k, if there is such a p and nodes[u] ≥ 0."""
    o_row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b_node = tl.load(p_nodes + o_row, mask=o_row < num_nodes, other=-1).to(tl.int64)
    # Elementwise, so that a single reduction follows the scan.
    b_last = tl.full([BLOCK, CHUNK], -1, tl.int32)
    for o_chunk in range(0, num_fresh, CHUNK):
        o_fresh = o_chunk + tl.arange(0, CHUNK)
        b_fresh = tl.load(p_fresh_nodes + o_fresh, mask=o_fresh < num_fresh, other=-1).to(tl.int64)
        m_match = (b_fresh[None, :] == b_node[:, None]) & (b_fresh >= 0)[None, :]
        b_last = tl.where(m_match, o_fresh[None, :], b_last)
    b_match = tl.max(b_last, 1)
    for k in tl.static_range(len(WIDTHS)):
        copy_matches(
            p_stale[k], p_fresh[k], o_row, b_match, STALE_STRIDES[k], FRESH_STRIDES[k], WIDTHS[k], PADDED[k], COLUMNS
        )


def _launch(args: Patch) -> None:
    """Launch programs that find the matches of BLOCK nodes once and copy the rows of all tensors.

    A program writes only its own rows and reads no stale row, so nothing races.
    """
    stale, nodes, fresh, fresh_nodes = args
    pairs = [(old, new) for old, new in zip(stale, fresh, strict=True) if old.numel() and new.numel()]
    if not pairs:
        return
    widths = tuple(old[0].numel() for old, _ in pairs)
    config = patch_kernel.config()
    patch_kernel.launch(
        (cdiv(nodes.numel(), config["BLOCK"]),), config,
        nodes, fresh_nodes, tuple(old for old, _ in pairs), tuple(new for _, new in pairs),
        nodes.numel(), fresh_nodes.numel(),
        STALE_STRIDES=tuple(old.stride(0) for old, _ in pairs), FRESH_STRIDES=tuple(new.stride(0) for _, new in pairs),
        WIDTHS=widths, PADDED=tuple(pow2(width, 1) for width in widths),
    )  # fmt: skip


def _check(args: Patch) -> None:
    stale, nodes, fresh, fresh_nodes = args
    if len(stale) != len(fresh):
        raise ValueError(
            f"{_NAME}: stale has {len(stale)} tensors, fresh has {len(fresh)}; give the same parts of both"
        )
    checks.dtype(_NAME, checks.INTEGERS, nodes=nodes, fresh_nodes=fresh_nodes)
    checks.layout(_NAME, nodes=nodes, fresh_nodes=fresh_nodes)
    checks.device(_NAME, nodes.device, fresh_nodes=fresh_nodes)
    for name, ids in (("nodes", nodes), ("fresh_nodes", fresh_nodes)):
        if ids.dim() != 1:
            raise ValueError(f"{_NAME}: {name} has shape {tuple(ids.shape)}; give a vector, as with {name}.view(-1)")
    for k, (old, new) in enumerate(zip(stale, fresh, strict=True)):
        pair = {f"stale[{k}]": old, f"fresh[{k}]": new}
        checks.dtype(_NAME, checks.FLOATS + checks.INTEGERS, **pair)
        checks.same_dtype(_NAME, **pair)
        for (name, tensor), rows in zip(pair.items(), (len(nodes), len(fresh_nodes)), strict=True):
            if tuple(tensor.shape) != (rows, *old.shape[1:]):
                raise ValueError(
                    f"{_NAME}: {name} has shape {tuple(tensor.shape)} and should have {(rows, *old.shape[1:])}, "
                    f"one row per node, with rows as in stale[{k}] {tuple(old.shape)}; fix the wrong one"
                )
        checks.layout(_NAME, **pair)
        checks.device(_NAME, nodes.device, (), **pair)


patch_rows = operation(_NAME, Patch, reference=_reference, launch=_launch, check=_check, on="nodes", mutates=("stale",))
