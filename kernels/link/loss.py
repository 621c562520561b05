"""Scores and loss of link prediction in one operation: the predictor's products, ReLU, scores and their loss."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mspipe_triton.kernels.link.backward import BACKWARD
from mspipe_triton.kernels.link.candidates import Scored, by_candidate, by_row, candidate_row, real_part, sizes
from mspipe_triton.kernels.link.losses import event_losses, link_loss_kernel, slopes
from mspipe_triton.kernels.runtime import checks, spaces
from mspipe_triton.kernels.runtime.device import add_product, real_rows
from mspipe_triton.kernels.runtime.launch import Config, arithmetic, cdiv, device_function, input_precision, kernel, tl
from mspipe_triton.kernels.runtime.operation import differentiable

_NAME = "link_loss"


class LinkLoss(NamedTuple):
    """Scores and loss of a batch of B events with K negatives each, by TGN's link predictor (Rossi et al., 2020).

    Candidate 0 of an event is its destination, candidates 1 to K are its negatives. Each of the n real events i has a
    score for each of its candidates c, with f_ic the features of the pair of source and candidate, if there are any:

        h_ic = ReLU(W_src src_i + b_src + W_dst z_ic + b_dst + W_pair f_ic)
        s_ic = w_out · h_ic + b_out
        loss = (1/n) Σ_i softplus(−s_i0) + (1/K) Σ_{c ≥ 1} softplus(s_ic)          (0 where n = 0), or with log weights
        loss = (1/n) Σ_i log (exp(s_i0) + Σ_{c ≥ 1} exp(s_ic + a_ic)) − s_i0

    The first is the mean binary cross-entropy of the destinations' scores against 1 plus that of the negatives' against
    0. The second is the mean cross-entropy of the softmax over an event's candidates against its destination, in which
    a negative counts exp(a) times: with a = −log of its expected number of draws, the negatives stand for all
    destinations (sampled softmax: Jean et al., 2015). W_src src_i is computed once per event.

    Args:
        embedded: [(2 + K)B, D], the embeddings of sources, then destinations, then negatives; candidate c ≥ 1 of event
            i is row 2B + iK + c − 1. Any row stride.
        pairs: [B, 1 + K, F], the features of pairs, in the dtype of `embedded`; they get no gradient. None for none.
        count: [1] integer on the device, the number of real events, which come first; None for all. Other events' rows
            of `embedded` and `pairs` do not count, whatever they hold.
        weight_src, weight_dst [D, D], bias_src, bias_dst [D], weight_out [1, D], bias_out [1]: torch.nn.Linear's;
            float32 or float64, which is also the dtype of `embedded` and of the computation.
        weight_pair: [D, F]; None if `pairs` is None.
        negatives: K, at least 1.
        log_weights: [B, K], a, in the dtype of `embedded`, without a gradient; 0 for a softmax over the candidates
            alone. None for the binary cross-entropy.

    Returns:
        loss [] and scores [1 + K, B], those of the destinations first, 0 for events that are not real. Nothing is
        mutated. The loss is differentiable once in `embedded` and in all weights and biases; rows of events that are
        not real get gradient 0. Scores have no gradient. Bitwise the same in every run.

    Raises:
        ValueError: K is below 1, `embedded` does not have 2 + K rows per event, only one of `pairs` and `weight_pair`
            is None, a wrong shape, dtype, layout or device; with debugging on, a count that is negative or above B.
    """

    embedded: torch.Tensor
    pairs: torch.Tensor | None
    count: torch.Tensor | None  # type: ignore[assignment]  # overrides tuple.count
    weight_src: torch.Tensor
    bias_src: torch.Tensor
    weight_dst: torch.Tensor
    bias_dst: torch.Tensor
    weight_out: torch.Tensor
    bias_out: torch.Tensor
    weight_pair: torch.Tensor | None
    negatives: int
    log_weights: torch.Tensor | None


def _reference(args: LinkLoss, save: bool) -> Scored:
    (events, dim, features), embedded, negatives = sizes(args), args.embedded, args.negatives
    valid, number = real_part(args.count, events)
    hidden = embedded[events:] @ args.weight_dst.t()
    source = torch.addmm(args.bias_src + args.bias_dst, embedded[:events], args.weight_src.t())
    if negatives == 1:
        hidden.view(2, events, dim).add_(source)
    else:
        hidden[:events].add_(source)
        hidden[events:].view(events, negatives, dim).add_(source.unsqueeze(1))
    if args.pairs is not None and args.weight_pair is not None:
        weight = args.weight_pair.t()
        hidden[:events].addmm_(args.pairs[:, 0], weight)
        hidden[events:].addmm_(args.pairs[:, 1:].reshape(events * negatives, features), weight)
    hidden.relu_()
    scores = by_candidate(torch.mv(hidden, args.weight_out[0]).add_(args.bias_out), negatives)
    losses, new = event_losses(scores, args.log_weights), hidden.new_empty
    saved = (hidden, by_row(slopes(scores, args.log_weights))) if save else (new(0), new(0))
    if valid is not None:
        scores, losses = torch.where(valid, scores, 0.0), torch.where(valid, losses, 0.0)
    return Scored(losses.sum() / number, scores, *saved)


@kernel(
    Config({"BLOCK_U": 32, "BLOCK_D": 32, "BLOCK_K": 32}, num_warps=4, num_stages=2),
    Config({"BLOCK_U": 32, "BLOCK_D": 64, "BLOCK_K": 32}, num_warps=4, num_stages=3),
    Config({"BLOCK_U": 64, "BLOCK_D": 64, "BLOCK_K": 32}, num_warps=8, num_stages=3),
    space=spaces.UPDATER,
    ieee=[Config({"BLOCK_U": 16, "BLOCK_D": 32, "BLOCK_K": 32}, num_warps=4, num_stages=2)],
    float64=[Config({"BLOCK_U": 16, "BLOCK_D": 32, "BLOCK_K": 16}, num_warps=4, num_stages=2)],
)
def link_scores_kernel(
    p_embedded, p_pairs, p_count, p_weight_src, p_bias_src, p_weight_dst, p_bias_dst, p_weight_out, p_weight_pair,
    p_partial, p_hidden, events, NEGATIVES: tl.constexpr, DIM: tl.constexpr, STRIDE: tl.constexpr,
    FEATURES: tl.constexpr, SAVE: tl.constexpr, PRECISION: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """h_c = ReLU(W_src src + b_src + W_dst z_c + b_dst + W_pair f_c) for BLOCK_U real events, all their candidates c
    and BLOCK_D hidden numbers, and their parts w_out · h_c of the scores, [tiles of D, 1 + K, B]; W_src src is computed
    once for all candidates."""
    stop = real_rows(p_count, events)
    if tl.program_id(0) * BLOCK_U >= stop:
        return
    i_u = tl.program_id(0) * BLOCK_U + tl.arange(0, BLOCK_U)
    i_d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    m_u, m_d, ahead = i_u < stop, i_d < DIM, tl.cast(events, tl.int64)
    b_bias = tl.load(p_bias_src + i_d, mask=m_d, other=0.0) + tl.load(p_bias_dst + i_d, mask=m_d, other=0.0)
    b_out = tl.load(p_weight_out + i_d, mask=m_d, other=0.0)[None, :]
    b_source = tl.zeros([BLOCK_U, BLOCK_D], p_partial.dtype.element_ty)
    b_source = _add_rows(
        b_source, p_embedded + i_u.to(tl.int64) * STRIDE, p_weight_src, m_u, i_d, DIM, DIM, PRECISION, BLOCK_K
    )
    b_source += b_bias[None, :]
    p_score = p_partial + tl.program_id(1) * (1 + NEGATIVES) * ahead + i_u
    for c in range(1 + NEGATIVES):
        p_row = p_embedded + (ahead + candidate_row(i_u, c, events, NEGATIVES)) * STRIDE
        b_hidden = _add_rows(b_source, p_row, p_weight_dst, m_u, i_d, DIM, DIM, PRECISION, BLOCK_K)
        if p_pairs is not None:
            p_row = p_pairs + (i_u.to(tl.int64) * (1 + NEGATIVES) + c) * FEATURES
            b_hidden = _add_rows(b_hidden, p_row, p_weight_pair, m_u, i_d, FEATURES, DIM, PRECISION, BLOCK_K)
        b_hidden = tl.where(b_hidden < 0, 0.0, b_hidden)  # unlike tl.maximum, keeps NaN
        if SAVE:
            p_own = p_hidden + (i_u + c * ahead)[:, None] * DIM + i_d[None, :]
            tl.store(p_own, b_hidden, mask=m_u[:, None] & m_d[None, :])
        tl.store(p_score + c * ahead, tl.sum(b_hidden * b_out, 1), mask=m_u)


@device_function
def _add_rows(
    b_sum, p_row, p_weight, m_u, i_d, WIDTH: tl.constexpr, DIM: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """b_sum + X Wᵀ with rows X of WIDTH numbers at pointers [BLOCK_U] and W [DIM, WIDTH]."""
    for k in range(0, WIDTH, BLOCK_K):
        i_k = k + tl.arange(0, BLOCK_K)
        m_k = i_k < WIDTH
        p_w = p_weight + i_d[None, :] * WIDTH + i_k[:, None]
        b_w = tl.load(p_w, mask=m_k[:, None] & (i_d < DIM)[None, :], other=0.0)
        b_x = tl.load(p_row[:, None] + i_k[None, :], mask=m_u[:, None] & m_k[None, :], other=0.0)
        b_sum = add_product(b_sum, b_x, b_w, PRECISION)
    return b_sum


def _launch(args: LinkLoss, save: bool) -> Scored:
    """Launch two kernels: hidden rows and parts of the scores, then scores and loss. Bitwise the same in every run."""
    (events, dim, features), out, embedded, negatives = sizes(args), _empty(args, save), args.embedded, args.negatives
    config = link_scores_kernel.config(arithmetic(embedded.dtype))
    tiles = cdiv(dim, config["BLOCK_D"])
    partial = embedded.new_empty(tiles, 1 + negatives, events)
    weight_pair = None if args.weight_pair is None else args.weight_pair.contiguous()
    link_scores_kernel.launch(
        (cdiv(events, config["BLOCK_U"]), tiles), config,
        embedded, args.pairs, args.count, args.weight_src.contiguous(), args.bias_src, args.weight_dst.contiguous(),
        args.bias_dst, args.weight_out, weight_pair, partial, out.hidden, events,
        NEGATIVES=negatives, DIM=dim, STRIDE=embedded.stride(0), FEATURES=features, SAVE=save,
        PRECISION=input_precision(embedded.dtype),
    )  # fmt: skip
    link_loss_kernel.launch(
        (1,), link_loss_kernel.config(),
        partial, args.count, args.bias_out, args.log_weights, out.scores, out.loss, out.slopes, events,
        NEGATIVES=negatives, TILES=tiles, SAVE=save,
    )  # fmt: skip
    return out


def _empty(args: LinkLoss, save: bool) -> Scored:
    """Allocate the outputs."""
    (events, dim, _), new, candidates = sizes(args), args.embedded.new_empty, 1 + args.negatives
    rows = candidates * events
    return Scored(new(()), new(candidates, events), new((rows, dim) if save else 0), new(rows if save else 0))


def _check(args: LinkLoss) -> None:
    weights = checks.named(args, "weight_src", "bias_src", "weight_dst", "bias_dst", "weight_out", "bias_out")
    checks.dims(_NAME, 2, embedded=args.embedded, weight_pair=args.weight_pair)
    if args.negatives < 1:
        raise ValueError(f"{_NAME}: negatives is {args.negatives}; give the number of negatives per event, at least 1")
    rows, dim = args.embedded.shape
    if rows % (2 + args.negatives) or not dim:
        raise ValueError(
            f"{_NAME}: embedded has shape {(rows, dim)}; give {2 + args.negatives} rows per event (its source, its "
            f"destination, {args.negatives} negatives), with at least one column"
        )
    if (args.pairs is None) != (args.weight_pair is None):
        only, other = ("weight_pair", "pairs") if args.pairs is None else ("pairs", "weight_pair")
        raise ValueError(f"{_NAME}: {only} without {other}; give both or neither")
    checks.dims(_NAME, 3, pairs=args.pairs)
    events, _, features = sizes(args)
    shapes = [(dim, dim), (dim,), (dim, dim), (dim,), (1, dim), (1,)]
    checks.shape(
        _NAME, count=(args.count, (1,)), pairs=(args.pairs, (events, 1 + args.negatives, features)),
        weight_pair=(args.weight_pair, (dim, features)), log_weights=(args.log_weights, (events, args.negatives)),
        **dict(zip(weights, zip(weights.values(), shapes, strict=True), strict=True)),
    )  # fmt: skip
    weights |= checks.named(args, "weight_pair", "log_weights")
    checks.dtype(_NAME, checks.COMPUTED, weight_src=args.weight_src)
    checks.same_dtype(_NAME, **weights, embedded=args.embedded, pairs=args.pairs)
    checks.dtype(_NAME, checks.INTEGERS, count=args.count)
    checks.layout(_NAME, embedded=args.embedded, pairs=args.pairs, **weights)
    checks.device(_NAME, args.embedded.device, (), count=args.count, pairs=args.pairs, **weights)
    checks.within(_NAME, "count", args.count, events + 1)


link_loss = differentiable(
    _NAME, LinkLoss, reference=_reference, launch=_launch, fake=_empty, check=_check, on="embedded",
    returns=lambda out: (out.loss, out.scores), backward=BACKWARD,
)  # fmt: skip
