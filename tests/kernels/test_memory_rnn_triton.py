"""The kernels of `memory_rnn`, in Triton's interpreter: results and gradients by name, counts, types, refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch

from mspipe_triton.kernels import launch, memory_rnn
from mspipe_triton.kernels.checks import enable_debug

Named = dict[str, torch.Tensor]


@dataclass
class Case:
    """Random inputs of U nodes over tables of N rows; `run` gives h and the gradients of one dtype, by name."""

    nodes: int
    dim: int = 5
    edge: int = 3
    times: int = 4
    rows: bool = True
    ids: torch.dtype = torch.int64
    mail: float = 0.7
    count: int | None = None
    table_dtype: torch.dtype | None = None
    empty: str = "update"
    inputs: Named = field(default_factory=dict)

    def __post_init__(self) -> None:
        draw = torch.Generator().manual_seed(17 * self.nodes + self.dim)
        table = self.nodes + 7 if self.rows else self.nodes
        message = 2 * self.dim + self.edge + self.times

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=draw, dtype=torch.float64)

        self.inputs = {
            "memory": normal(table, self.dim),
            "partner": normal(table, self.dim),
            "features": normal(table, self.edge),
            "frequency": normal(self.times).abs(),
            "phase": normal(self.times),
            "weight_ih": normal(self.dim, message) / message**0.5,
            "weight_hh": normal(self.dim, self.dim) / self.dim**0.5,
            "bias_ih": normal(self.dim),
            "bias_hh": normal(self.dim),
        }
        self.deltas = normal(self.nodes).abs() * 3
        self.has_mail = torch.rand(self.nodes, generator=draw) < self.mail
        self.pick = [torch.randint(-1, table, (self.nodes,), generator=draw) for _ in range(3)]
        for pick in self.pick[1:]:
            pick.masked_fill_(~self.has_mail, -1)
        self.weigh = normal(self.nodes, self.dim)
        if self.table_dtype is not None:  # all three runs read the same rounded tables
            for name in ("memory", "partner", "features"):
                self.inputs[name] = self.inputs[name].to(self.table_dtype).double()

    def run(self, dtype: torch.dtype, grad: bool = True) -> Named:
        leaves = {name: value.detach().to(dtype).requires_grad_(grad) for name, value in self.inputs.items()}
        if self.table_dtype is not None and dtype != torch.float64:
            for name in ("memory", "partner", "features"):
                leaves[name] = self.inputs[name].to(self.table_dtype)
        rows = [pick.to(self.ids) if self.rows else None for pick in self.pick]
        count = None if self.count is None else torch.tensor([self.count])
        h = memory_rnn(
            leaves["memory"], rows[0], leaves["partner"], rows[1], leaves["features"], rows[2],
            self.deltas.to(dtype), self.has_mail, leaves["frequency"], leaves["phase"], leaves["weight_ih"],
            leaves["weight_hh"], leaves["bias_ih"], leaves["bias_hh"], self.empty, count,
        )  # fmt: skip
        results = {"h": h.detach()}
        if grad:
            (h * self.weigh.to(dtype)).sum().backward()
            results |= {name: leaf.grad for name, leaf in leaves.items() if leaf.is_leaf and leaf.grad is not None}
        return results


def judge(
    case: Case, dtype: torch.dtype, derived: Callable[[Named, Named, Named], None],
    given: Case | None = None,
) -> Named:  # fmt: skip
    """Kernels against torch in the same dtype, both against float64; float64 kernels against torch's float64.

    The kernels may be `given` the case in another form. Returns what they gave.
    """
    launch.use_triton(False)
    truth, same = case.run(torch.float64), case.run(dtype)
    launch.use_triton(True)
    ours = (given or case).run(dtype)
    if dtype == torch.float64:
        for name, value in truth.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-12, atol=1e-12, msg=lambda text, n=name: n + text)
    else:
        derived(ours, same, {name: truth[name] for name in same})
    return ours


@pytest.fixture
def large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer programs, by which the interpreter's time goes; the shipped blocks run in `test_results_and_gradients`."""
    for name, blocks in (
        ("pack_kernel", {"BLOCK_ROWS": 64, "BLOCK_DEPTH": 128}),
        ("tanh_backward_kernel", {"BLOCK_U": 16}),
        ("weights_backward_kernel", {"BLOCK_N": 128, "BLOCK_K": 128, "BLOCK_U": 16, "PART": 512}),
        ("sum_parts_kernel", {"BLOCK": 2048}),
    ):
        for variant in launch.KERNELS[name].chosen:
            monkeypatch.setitem(launch.KERNELS[name].chosen, variant, launch.Config(blocks))


@pytest.mark.parametrize(("nodes", "dtype"), [(1, torch.float32), (65, torch.float32), (17, torch.float64)], ids=str)
@pytest.mark.usefixtures("interpreter", "poisoned")
def test_results_and_gradients(nodes: int, dtype: torch.dtype, derived: Callable[..., None]) -> None:
    judge(Case(nodes), dtype, derived)


@pytest.mark.parametrize(
    ("nodes", "dim", "edge", "times"),
    [(33, 3, 0, 2), (17, 1, 413, 3), (17, 3, 172, 100), (5, 33, 0, 2), (5, 100, 1, 3)],
    ids=str,
)
@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
def test_widths(nodes: int, dim: int, edge: int, times: int, derived: Callable[..., None]) -> None:
    judge(Case(nodes, dim, edge, times), torch.float32, derived)


@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
def test_all_widths_one(derived: Callable[..., None]) -> None:
    """In float64, for in float32 a gradient of one number is now and then exact in torch by luck."""
    judge(Case(17, 1, 1, 1), torch.float64, derived)


@pytest.mark.parametrize("count", [None, 17])
@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
def test_sums_over_nodes_in_several_parts(
    count: int | None, derived: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, block in (("weights_backward_kernel", "BLOCK_U"), ("encode_time_backward_kernel", "BLOCK_M")):
        for variant, config in launch.KERNELS[name].chosen.items():
            config = launch.Config({**config.blocks, block: 16, "PART": 16})
            monkeypatch.setitem(launch.KERNELS[name].chosen, variant, config)
    judge(Case(49, count=count), torch.float32, derived)


@pytest.mark.parametrize(
    ("empty", "mail", "dtype"),
    [
        ("update", 0.0, torch.float32), ("update", 1.0, torch.float64),
        ("keep", 0.0, torch.float64), ("keep", 0.7, torch.float32),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
def test_nodes_without_mail(empty: str, mail: float, dtype: torch.dtype, derived: Callable[..., None]) -> None:
    judge(Case(20, mail=mail, empty=empty), dtype, derived)


@pytest.mark.parametrize(("count", "dtype"), [(0, torch.float64), (7, torch.float32), (16, torch.float64)])
@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
def test_nodes_from_the_count_on_are_zero_and_give_no_gradient(
    count: int, dtype: torch.dtype, derived: Callable[..., None]
) -> None:
    """16 of 20 fill one program of the fused kernel, and the other has none."""
    case, junk = (Case(20, count=count, empty="keep") for _ in range(2))
    junk.deltas[count:], junk.weigh[count:] = 1e9, 1e30
    ours = judge(case, dtype, derived, given=junk)
    assert ours["h"][count:].eq(0).all()


@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
def test_bfloat16_tables_and_int32_rows(derived: Callable[..., None]) -> None:
    judge(Case(20, table_dtype=torch.bfloat16, ids=torch.int32), torch.float32, derived)


@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
def test_tables_that_are_rows_already(derived: Callable[..., None]) -> None:
    judge(Case(20, rows=False), torch.float64, derived)


@pytest.mark.usefixtures("interpreter", "large_blocks")
def test_no_nodes() -> None:
    results = Case(0).run(torch.float32)
    assert results["h"].shape == (0, 5)
    assert all(value.eq(0).all() for value in results.values())


@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
def test_without_gradients_nothing_is_saved_and_h_is_the_same() -> None:
    case = Case(20)
    with_gradient = case.run(torch.float64)["h"]
    assert torch.equal(case.run(torch.float64, grad=False)["h"], with_gradient)


@pytest.mark.usefixtures("interpreter", "large_blocks")
def test_a_row_stride_wider_than_the_row_is_respected(derived: Callable[..., None]) -> None:
    case, wide = Case(20), Case(20)
    for name in ("memory", "partner", "features"):
        table = case.inputs[name]
        room = torch.full((table.shape[0], table.shape[1] + 3), torch.nan, dtype=torch.float64)
        room[:, : table.shape[1]] = table
        wide.inputs[name] = room[:, : table.shape[1]]
        assert not wide.inputs[name].is_contiguous()
    judge(case, torch.float64, derived, given=wide)


@pytest.mark.usefixtures("interpreter", "large_blocks")
def test_the_backward_pass_survives_a_write_to_the_tables() -> None:
    case = Case(20)
    tables = [case.inputs[name].clone() for name in ("memory", "partner", "features")]
    weights = [case.inputs[name].clone().requires_grad_() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]

    def gradients(write: bool) -> tuple[torch.Tensor, ...]:
        memory, partner, features = (table.clone() for table in tables)
        h = memory_rnn(
            memory, case.pick[0], partner, case.pick[1], features, case.pick[2], case.deltas, case.has_mail,
            case.inputs["frequency"], case.inputs["phase"], *weights,
        )  # fmt: skip
        if write:
            for table in (memory, partner, features):
                table.fill_(9.0)
        return torch.autograd.grad(h.sum(), weights)

    ours = gradients(True)
    launch.use_triton(False)
    for plain, written in zip(gradients(False), ours, strict=True):
        torch.testing.assert_close(written, plain, rtol=1e-12, atol=1e-12)


def arguments(**changes: object) -> dict[str, object]:
    case = Case(6)
    given: dict[str, object] = {
        **case.inputs, "memory_rows": case.pick[0], "partner_rows": case.pick[1], "feature_rows": case.pick[2],
        "deltas": case.deltas, "has_mail": case.has_mail,
    }  # fmt: skip
    return {**given, **changes}


def test_opcheck() -> None:
    for save, keep, count in ((True, True, torch.tensor([4])), (False, False, None)):
        a = arguments()
        inputs = [
            a["memory"], a["memory_rows"], a["partner"], a["partner_rows"], a["features"], a["feature_rows"],
            a["deltas"], a["has_mail"], a["frequency"], a["phase"],
            *(a[name].clone().requires_grad_(save) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
            count, keep, save,
        ]  # fmt: skip
        torch.library.opcheck(torch.ops.mspipe_triton.memory_rnn.default, tuple(inputs))


def test_compiles_into_one_graph() -> None:
    given = arguments()
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "memory"):
        given[name].requires_grad_()
    whole = torch.compile(memory_rnn, fullgraph=True, backend="aot_eager")
    h, expected = whole(**given), memory_rnn(**given)
    torch.testing.assert_close(h, expected)
    (ours,) = torch.autograd.grad(h.sum(), [given["weight_ih"]])
    (plain,) = torch.autograd.grad(expected.sum(), [given["weight_ih"]])
    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory": torch.zeros(13, 5, dtype=torch.float16)}, r"memory is torch.float16; give float32 or float64"),
        ({"memory_rows": torch.zeros(6)}, "memory_rows is torch.float32; give int32 or int64"),
        ({"has_mail": torch.zeros(6, dtype=torch.uint8)}, "has_mail is torch.uint8; give bool"),
        ({"bias_ih": torch.zeros(5)}, "bias_ih is torch.float32 beside weight_ih in torch.float64"),
        ({"partner": torch.zeros(5, 13, dtype=torch.float64).t()}, r"partner \(13, 5\) has strides .*contiguous"),
        ({"deltas": torch.zeros(6, dtype=torch.float64, device="meta")}, "deltas is on meta, not on cpu"),
        ({"memory_rows": None}, "memory has 13 rows for 6 nodes; give memory_rows"),
        ({"empty": "skip"}, "empty must be 'update' or 'keep', not 'skip'"),
        ({"features": torch.zeros(13, 4, dtype=torch.float64)}, "weight_ih is .* messages have width"),
        ({"weight_hh": torch.zeros(5, 4, dtype=torch.float64)}, r"weight_hh has shape \(5, 4\); give \(5, 5\)"),
        ({"has_mail": torch.ones(5, dtype=torch.bool)}, r"deltas has shape \(6,\); give \(5,\)"),
        ({"phase": torch.zeros(1, dtype=torch.float64)}, r"phase has shape \(1,\); give \(4,\)"),
        ({"count": torch.tensor([1, 2])}, r"count has shape \(2,\); give \(1,\)"),
        ({"memory": torch.zeros(13, dtype=torch.float64)}, r"memory has shape \(13,\); give 2 dimensions"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refusals(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        memory_rnn(**arguments(**changes))


def test_debugging_finds_rows_outside_their_tables() -> None:
    outside = torch.full((6,), 13)
    enable_debug()
    try:
        with pytest.raises(ValueError, match=r"memory_rows holds 13, outside \[0, 13\); negatives are padding"):
            memory_rnn(**arguments(memory_rows=outside))
        memory_rnn(**arguments(memory_rows=outside - 1))
    finally:
        enable_debug(False)
