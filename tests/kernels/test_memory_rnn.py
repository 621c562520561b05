"""memory_rnn against torch.nn.RNNCell on the fully built message, forward and every gradient by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch

from mspipe_triton.kernels import fusion, memory_rnn

Named = dict[str, torch.Tensor]
Agree = Callable[[Named, Named], None]
WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
TABLES = ("memory", "partner", "features")


@dataclass
class Case:
    """Random tables, rows and weights for U nodes, of which `count` are real; `leaves` are differentiated."""

    nodes: int
    width: int = 5  # of the features
    mail: str = "some"
    rows: bool = True
    padding: int = 0
    dim: int = 4
    times: int = 3
    count: int | None = None
    leaves: Named = field(init=False)

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(self.nodes * 7 + self.width)
        message = 2 * self.dim + self.width + self.times
        self.leaves = {
            "memory": self.table(self.dim),
            "partner": self.table(self.dim),
            "features": self.table(self.width),
            "frequency": torch.logspace(0, -3, self.times, dtype=torch.float64),
            "phase": self.normal(self.times),
            "weight_ih": self.normal(self.dim, message) / message**0.5,
            "weight_hh": self.normal(self.dim, self.dim) / 2,
            "bias_ih": self.normal(self.dim) / 2,
            "bias_hh": self.normal(self.dim) / 2,
        }
        for leaf in self.leaves.values():
            leaf.requires_grad_()
        self.deltas = torch.rand(self.nodes, dtype=torch.float64, generator=self.random) * 100
        filled = torch.rand(self.nodes, generator=self.random) < {"none": 0.0, "some": 0.6, "all": 1.0}[self.mail]
        self.has_mail = filled
        self.probe = self.normal(self.nodes, self.dim)
        self.indices = [self.draw_rows() if self.rows else None for _ in range(3)]
        if self.indices[2] is not None:
            self.indices[2] = torch.where(filled, self.indices[2], -1)  # no mail, no event, no feature row

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=self.random)

    def table(self, width: int) -> torch.Tensor:
        """A table of 50 rows (or one a node), cut out of a wider one where rows are padded."""
        return self.normal(50 if self.rows else self.nodes, width + self.padding)[:, :width].detach()

    def draw_rows(self) -> torch.Tensor:
        return torch.randint(0, 50, (self.nodes,), generator=self.random)

    def actual(self, empty: str = "update") -> torch.Tensor:
        sources = [part for name, rows in zip(TABLES, self.indices, strict=True) for part in (self.leaves[name], rows)]
        others = [self.leaves[name] for name in ("frequency", "phase", *WEIGHTS)]
        count = None if self.count is None else torch.tensor([self.count])
        return memory_rnn(*sources, self.deltas, self.has_mail, *others, empty, count)

    def expected(self, empty: str = "update") -> torch.Tensor:
        memory, partner, features = (
            self.leaves[name] if rows is None else self.leaves[name][rows.clamp(min=0)]
            for name, rows in zip(TABLES, self.indices, strict=True)
        )
        encoded = torch.cos(self.deltas[:, None] * self.leaves["frequency"] + self.leaves["phase"])
        message = torch.cat([memory, partner, features, encoded], 1) * self.has_mail[:, None]
        h = cell(message, memory, {name: self.leaves[name] for name in WEIGHTS})
        h = h if empty == "update" else torch.where(self.has_mail[:, None], h, memory)
        return h if self.count is None else h * (torch.arange(self.nodes) < self.count)[:, None]

    def with_gradients(self, h: torch.Tensor) -> Named:
        leaves = list(self.leaves.values())
        gradients = torch.autograd.grad((h * self.probe).sum(), leaves, materialize_grads=True)
        return {"h": h.detach(), **dict(zip(self.leaves, gradients, strict=True))}


def cell(message: torch.Tensor, memory: torch.Tensor, weights: Named) -> torch.Tensor:
    """torch's RNNCell with the given weights."""
    module = torch.nn.RNNCell(message.shape[1], memory.shape[1], dtype=torch.float64)
    return torch.func.functional_call(module, weights, (message, memory))


def check(case: Case, agree: Agree, empty: str = "update") -> Named:
    """Both agree; the oracle's tensors are returned."""
    expected = case.with_gradients(case.expected(empty))
    agree(case.with_gradients(case.actual(empty)), expected)
    return expected


def test_the_cell_is_its_equation(agree: Agree) -> None:
    case = Case(7)
    weights, message, memory = {name: case.leaves[name] for name in WEIGHTS}, case.normal(7, 16), case.normal(7, 4)
    rows = [
        torch.tanh(
            weights["weight_ih"] @ x + weights["bias_ih"] + weights["weight_hh"] @ m + weights["bias_hh"]
        ) for x, m in zip(message, memory, strict=True)
    ]  # fmt: skip
    agree({"h": cell(message, memory, weights).detach()}, {"h": torch.stack(rows).detach()})


@pytest.mark.parametrize("empty", ["update", "keep"])
@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("mail", ["some", "none", "all"])
@pytest.mark.parametrize("width", [0, 5])
@pytest.mark.parametrize("nodes", [0, 1, 123, 257])
def test_forward_and_gradients(nodes: int, width: int, mail: str, rows: bool, empty: str, agree: Agree) -> None:
    check(Case(nodes, width, mail, rows), agree, empty)


@pytest.mark.parametrize("empty", ["update", "keep"])
def test_every_gradient_of_a_full_case_says_something(empty: str, agree: Agree) -> None:
    expected = check(Case(123), agree, empty)
    assert all(float(value.abs().max()) > 1e-3 for value in expected.values())


@pytest.mark.parametrize("dim", [1, 100])
def test_other_widths(dim: int, agree: Agree) -> None:
    check(Case(123, 172, dim=dim, times=dim), agree)


@pytest.mark.parametrize("rows", [True, False])
def test_padded_tables(rows: bool, agree: Agree) -> None:
    case = Case(123, rows=rows, padding=3)
    assert case.leaves["memory"].stride(0) == 7
    check(case, agree)


def test_unequal_partner_width(agree: Agree) -> None:
    """A partner's row may be a projection: its width is its own."""
    case = Case(123)
    case.leaves["partner"] = case.normal(50, 2).requires_grad_()
    case.leaves["weight_ih"] = case.normal(4, 4 + 2 + 5 + 3).requires_grad_()
    check(case, agree)


@pytest.mark.parametrize("empty", ["update", "keep"])
@pytest.mark.parametrize("mail", ["some", "all"])
@pytest.mark.parametrize("count", [0, 77, 123])
def test_nodes_from_the_count_on_are_zero_and_give_no_gradient(count: int, mail: str, empty: str, agree: Agree) -> None:
    case = Case(123, mail=mail, count=count)
    case.deltas[count:] = 1e9
    check(case, agree, empty)


def test_rows_below_zero_are_read_as_row_zero(agree: Agree) -> None:
    case = Case(123)
    assert case.indices[0] is not None
    plain = case.with_gradients(case.actual())
    case.indices[0] = torch.where(case.indices[0] == 0, -5, case.indices[0])
    assert bool((case.indices[0] < 0).any())
    agree(case.with_gradients(case.actual()), plain)


def test_int32_rows_are_as_good(agree: Agree) -> None:
    case = Case(123)
    wide = case.with_gradients(case.actual())
    case.indices = [rows.int() for rows in case.indices if rows is not None]
    agree(case.with_gradients(case.actual()), wide)


def test_without_mail_and_update_the_cell_runs_on_the_zero_message(agree: Agree) -> None:
    case = Case(123, mail="none")
    assert case.indices[0] is not None
    memory = case.leaves["memory"][case.indices[0]]
    expected = cell(torch.zeros(123, 16, dtype=torch.float64), memory, {name: case.leaves[name] for name in WEIGHTS})
    agree({"h": case.actual().detach()}, {"h": expected.detach()})
    gradients = case.with_gradients(case.actual())
    for name in ("partner", "features", "frequency", "phase", "weight_ih"):
        assert not gradients[name].any(), name
    assert all(gradients[name].any() for name in ("memory", "weight_hh", "bias_ih", "bias_hh"))


def test_keep_returns_the_memory_and_lets_the_gradient_through_to_it_alone() -> None:
    case = Case(123, mail="none", rows=False)
    h = case.actual("keep")
    assert torch.equal(h, case.leaves["memory"])
    gradients = case.with_gradients(h)
    assert torch.equal(gradients["memory"], case.probe)
    for name in set(gradients) - {"h", "memory"}:
        assert not gradients[name].any(), name


@pytest.mark.parametrize("name", ["memory", "weight_ih", "weight_hh", "frequency", "partner"])
def test_gradient_of_one_leaf_alone(name: str, agree: Agree) -> None:
    case = Case(123)
    expected = case.with_gradients(case.expected())[name]
    for other, leaf in case.leaves.items():
        leaf.requires_grad_(other == name)
    gradient = torch.autograd.grad((case.actual() * case.probe).sum(), case.leaves[name])[0]
    agree({name: gradient}, {name: expected})


def test_gradient_of_a_plain_sum(agree: Agree) -> None:
    """The incoming gradient is then one number, expanded: a tensor without strides of its own."""
    for empty in ("update", "keep"):
        case = Case(33)
        gradients = torch.autograd.grad(case.actual(empty).sum(), list(case.leaves.values()))
        case.probe = torch.ones_like(case.probe)
        expected = case.with_gradients(case.expected(empty))
        agree(dict(zip(case.leaves, gradients, strict=True)), {name: expected[name] for name in case.leaves})


@pytest.mark.parametrize("mail", ["some", "all"])
def test_inputs_and_incoming_gradients_stay_as_they_are(mail: str) -> None:
    for empty in ("update", "keep"):
        case = Case(123, mail=mail)
        before = {name: leaf.detach().clone() for name, leaf in case.leaves.items()}
        h, probe = case.actual(empty), case.probe.clone()
        value = h.detach().clone()
        torch.autograd.grad(h, list(case.leaves.values()), probe)
        assert all(torch.equal(before[name], leaf) for name, leaf in case.leaves.items())
        assert torch.equal(probe, case.probe)
        assert torch.equal(h, value)


def test_fused_loops_compute_the_same(agree: Agree) -> None:
    case = Case(123, 0, padding=2)
    plain = case.with_gradients(case.actual())
    fusion.enable_fusion()
    compiled = case.with_gradients(case.actual())
    assert fusion.fusion_failure() is None
    agree(compiled, plain)


def test_unknown_empty_is_refused() -> None:
    with pytest.raises(ValueError, match="memory_rnn: empty must be 'update' or 'keep', not 'skip'"):
        Case(3).actual("skip")


@pytest.mark.parametrize("shape", [(4, 17), (4, 15), (12, 16)])
def test_widths_that_do_not_add_up_are_refused(shape: tuple[int, int]) -> None:
    case = Case(3)
    case.leaves["weight_ih"] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=rf"memory_rnn: weight_ih is \({shape[0]}, {shape[1]}\),.* give \(4, 16\)"):
        case.actual()


def function_of_leaves(case: Case, empty: str) -> Callable[..., torch.Tensor]:
    def function(*leaves: torch.Tensor) -> torch.Tensor:
        case.leaves = dict(zip(case.leaves, leaves, strict=True))
        return case.actual(empty)

    return function


@pytest.mark.parametrize("empty", ["update", "keep"])
@pytest.mark.parametrize("rows", [True, False])
def test_gradcheck(rows: bool, empty: str) -> None:
    case = Case(5, 2, rows=rows, dim=2, times=2)
    assert {True, False} == set(case.has_mail.tolist())
    case.deltas = case.deltas / 50  # numerical differences in w want small times
    assert torch.autograd.gradcheck(function_of_leaves(case, empty), tuple(case.leaves.values()))


def test_a_second_derivative_is_refused() -> None:
    case = Case(5, 2, rows=False, dim=2, times=2)
    leaves = list(case.leaves.values())
    gradients = torch.autograd.grad(case.actual().square().sum(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        sum(gradient.square().sum() for gradient in gradients).backward()
