"""The kernels of memory_gru and memory_rnn in Triton's interpreter: results, gradients, counts, types, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mspipe_triton.kernels.runtime import launch
from mspipe_triton.kernels.runtime.checks import enable_debug
from tests.kernels.comparing import Derived
from tests.kernels.updaters.updater_case import GRU, RNN, SPLIT, TABLES, Case, Tensors, Updater

KERNELS = pytest.mark.parametrize("updater", [GRU, SPLIT, RNN], ids=str)
OPERATIONS = pytest.mark.parametrize("updater", [GRU, RNN], ids=lambda updater: updater.name)


def judge(case: Case, dtype: torch.dtype, derived: Derived, variant: Case | None = None) -> Tensors:
    """Check the kernels, on the case or on a variant of it, against torch on the case; return the kernels' tensors."""
    variant = (variant or case).to(dtype)
    ours = variant.with_gradients(variant.actual())
    compare(ours, case.to(dtype), derived)
    return ours


def compare(ours: Tensors, case: Case, derived: Derived) -> None:
    """Check the kernels' tensors against torch on a case of their types."""
    launch.use_triton(False)
    wide = case.to(torch.float64)
    for name, leaf in wide.leaves.items():
        leaf.requires_grad_(case.leaves[name].requires_grad)
    derived(ours, case.with_gradients(case.actual()), lambda: wide.with_gradients(wide.actual()))


@pytest.fixture
def large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use fewer programs, which the interpreter's time depends on; `test_results_and_gradients` runs shipped blocks."""
    for name, blocks in (
        ("pack_kernel", {"BLOCK_ROWS": 64, "BLOCK_DEPTH": 128}),
        ("message_kernel", {"BLOCK_U": 16}),
        ("gates_kernel", {"BLOCK_U": 16}),
        ("gates_backward_kernel", {"BLOCK_U": 16}),
        ("tanh_backward_kernel", {"BLOCK_U": 16}),
        ("weights_backward_kernel", {"BLOCK_N": 128, "BLOCK_K": 128, "BLOCK_U": 16, "PART": 512}),
        ("sum_parts_kernel", {"BLOCK": 2048}),
    ):
        for variant in launch.KERNELS[name].chosen:
            monkeypatch.setitem(launch.KERNELS[name].chosen, variant, launch.Config(blocks))


@pytest.mark.sample(2)
@KERNELS
@pytest.mark.parametrize(("nodes", "dtype"), [(1, torch.float32), (65, torch.float32), (17, torch.float64)], ids=str)
@pytest.mark.usefixtures("interpreter", "poisoned")
def test_results_and_gradients(updater: Updater, nodes: int, dtype: torch.dtype, derived: Derived) -> None:
    judge(Case(updater, nodes), dtype, derived)


@pytest.mark.sample(3)
@KERNELS
@pytest.mark.parametrize(
    ("nodes", "dim", "width", "times"),
    [(33, 3, 0, 2), (17, 1, 413, 20), (17, 3, 172, 100), (5, 33, 0, 2), (5, 100, 1, 3)],
    ids=str,
)
@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
def test_widths(updater: Updater, nodes: int, dim: int, width: int, times: int, derived: Derived) -> None:
    judge(Case(updater, nodes, dim, width, times), torch.float32, derived)


@KERNELS
@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
def test_all_widths_one(updater: Updater, derived: Derived) -> None:
    judge(Case(updater, 17, 1, 1, 1), torch.float32, derived)


@OPERATIONS
@pytest.mark.parametrize("count", [None, 17])
@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
def test_sums_over_nodes_in_several_parts(
    updater: Updater, count: int | None, derived: Derived, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, block in (("weights_backward_kernel", "BLOCK_U"), ("encode_time_backward_kernel", "BLOCK_M")):
        for variant, config in launch.KERNELS[name].chosen.items():
            config = launch.Config({**config.blocks, block: 16, "PART": 16})
            monkeypatch.setitem(launch.KERNELS[name].chosen, variant, config)
    judge(Case(updater, 49, count=count), torch.float32, derived)


@pytest.mark.sample(2)
@KERNELS
@pytest.mark.parametrize(
    ("empty", "mail", "dtype"),
    [
        ("update", 0.0, torch.float32), ("update", 1.0, torch.float64),
        ("keep", 0.0, torch.float64), ("keep", 0.7, torch.float32),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
def test_nodes_without_mail(updater: Updater, empty: str, mail: float, dtype: torch.dtype, derived: Derived) -> None:
    judge(Case(updater, 20, mail=mail, empty=empty), dtype, derived)


@KERNELS
@pytest.mark.parametrize(("count", "dtype"), [(0, torch.float64), (7, torch.float32), (16, torch.float64)])
@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
def test_padding_nodes_are_zero_and_give_no_gradient(
    updater: Updater, count: int, dtype: torch.dtype, derived: Derived
) -> None:
    """Include 16 real nodes of 20, which fill one program of the fused kernel and leave the other without any."""
    case, junk = (Case(updater, 20, count=count, empty="keep") for _ in range(2))
    junk.deltas[count:], junk.probes[0][count:] = 1e9, 1e30
    ours = judge(case, dtype, derived, variant=junk)
    assert ours["h"][count:].eq(0).all()


@KERNELS
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
def test_bfloat16_tables_and_int32_rows(updater: Updater, gradients: bool, derived: Derived) -> None:
    """Compare with gradients of the tables, and without."""
    case = Case(updater, 20).to(torch.float32, torch.bfloat16)
    case.picks = [rows.int() for rows in case.picks if rows is not None]
    for name in TABLES:
        case.leaves[name].requires_grad_(gradients)
    ours = case.with_gradients(case.actual())
    compare(ours, case, derived)
    assert ("memory" in ours) is gradients


@KERNELS
@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
def test_tables_without_row_indices(updater: Updater, derived: Derived) -> None:
    judge(Case(updater, 20, rows=False), torch.float64, derived)


@KERNELS
@pytest.mark.usefixtures("interpreter", "large_blocks")
def test_no_nodes(updater: Updater) -> None:
    case = Case(updater, 0).to(torch.float32)
    results = case.with_gradients(case.actual())
    assert results["h"].shape == (0, 5)
    assert all(value.eq(0).all() for value in results.values())


@KERNELS
@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
def test_without_gradients_h_is_the_same(updater: Updater) -> None:
    case = Case(updater, 20)
    with_gradient = case.actual().detach()
    for leaf in case.leaves.values():
        leaf.requires_grad_(False)
    assert torch.equal(case.actual(), with_gradient)


@KERNELS
@pytest.mark.usefixtures("interpreter", "large_blocks")
def test_tables_with_gaps_between_rows(updater: Updater, derived: Derived) -> None:
    case = Case(updater, 20, padding=3)
    assert not any(case.leaves[name].is_contiguous() for name in TABLES)
    judge(case, torch.float64, derived)


@KERNELS
@pytest.mark.usefixtures("interpreter", "large_blocks")
def test_writing_the_tables_does_not_change_the_backward_pass(updater: Updater) -> None:
    case = Case(updater, 20)
    for name in TABLES:
        case.leaves[name].requires_grad_(False)
    weights = list(case.weights.values())
    launch.use_triton(False)
    expected = torch.autograd.grad(case.actual().sum(), weights)
    launch.use_triton(True)
    h = case.actual()
    for name in TABLES:
        case.leaves[name].fill_(9.0)
    for theirs, ours in zip(expected, torch.autograd.grad(h.sum(), weights), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def call(updater: Updater, **changes: Any) -> None:
    updater.function(**{**Case(updater, 6).keywords(), **changes})


F64 = torch.float64


@OPERATIONS
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory": torch.zeros(13, 5, dtype=torch.float16)}, r"memory is torch.float16; give float32 or float64"),
        ({"memory_rows": torch.zeros(6)}, "memory_rows is torch.float32; give int32 or int64"),
        ({"has_mail": torch.zeros(6, dtype=torch.uint8)}, "has_mail is torch.uint8; give bool"),
        ({"partner": torch.zeros(5, 13, dtype=F64).t()}, r"partner \(13, 5\) has strides .*contiguous"),
        ({"deltas": torch.zeros(6, dtype=F64, device="meta")}, "deltas is on meta, not on cpu"),
        ({"memory_rows": None}, "memory has 13 rows for 6 nodes; give memory_rows"),
        ({"empty": "skip"}, "empty must be 'update' or 'keep', not 'skip'"),
        ({"features": torch.zeros(13, 4, dtype=F64)}, "weight_ih is .* messages have width"),
        ({"has_mail": torch.ones(5, dtype=torch.bool)}, r"deltas has shape \(6,\); give \(5,\)"),
        ({"phase": torch.zeros(1, dtype=F64)}, r"phase has shape \(1,\); give \(4,\)"),
        ({"count": torch.tensor([1, 2])}, r"count has shape \(2,\); give \(1,\)"),
        ({"memory": torch.zeros(13, dtype=F64)}, r"memory has shape \(13,\); give 2 dimensions"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refusals(updater: Updater, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{updater.name}: {message}"):
        call(updater, **changes)


@OPERATIONS
def test_weights_of_another_width_or_dtype_are_refused(updater: Updater) -> None:
    rows = 5 * updater.gates
    with pytest.raises(ValueError, match=rf"weight_hh has shape \({rows}, 4\); give \({rows}, 5\)"):
        call(updater, weight_hh=torch.zeros(rows, 4, dtype=F64))
    with pytest.raises(ValueError, match=r"bias_ih is torch\.float32 beside weight_ih in torch\.float64"):
        call(updater, bias_ih=torch.zeros(rows))


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ValueError, match="memory_gru: variant must be 'fused' or 'split', not 'both'"):
        call(GRU, variant="both")


@OPERATIONS
def test_debugging_finds_rows_outside_their_tables(updater: Updater) -> None:
    outside = torch.full((6,), 13)
    enable_debug()
    try:
        with pytest.raises(ValueError, match=r"memory_rows holds 13, outside \[0, 13\); negatives are padding"):
            call(updater, memory_rows=outside)
        call(updater, memory_rows=outside - 1)
    finally:
        enable_debug(False)
