"""memory_gru against torch.nn.GRUCell on the fully built message, forward and every gradient by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch

from mspipe_triton.kernels import memory_gru

Named = dict[str, torch.Tensor]
Agree = Callable[[Named, Named], None]
UNIX = 1_600_000_000
WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@dataclass
class Case:
    """Random tables, rows and weights for U nodes; `leaves` are differentiated."""

    nodes: int
    width: int = 5  # of the features
    mail: str = "some"
    rows: bool = True
    padding: int = 0
    dim: int = 4
    times: int = 3
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
            "weight_ih": self.normal(3 * self.dim, message) / 2,
            "weight_hh": self.normal(3 * self.dim, self.dim) / 2,
            "bias_ih": self.normal(3 * self.dim),
            "bias_hh": self.normal(3 * self.dim),
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
        tables = [self.leaves[name] for name in ("memory", "partner", "features")]
        sources = [part for pair in zip(tables, self.indices, strict=True) for part in pair]
        encoder = (self.leaves["frequency"], self.leaves["phase"])
        weights = [self.leaves[name] for name in WEIGHTS]
        return memory_gru(*sources, self.deltas, self.has_mail, *encoder, *weights, empty)

    def expected(self, empty: str = "update") -> torch.Tensor:
        tables = [self.leaves[name] for name in ("memory", "partner", "features")]
        memory, partner, features = (
            table if rows is None else table[rows.clamp(min=0)]
            for table, rows in zip(tables, self.indices, strict=True)
        )
        encoded = torch.cos(self.deltas[:, None] * self.leaves["frequency"] + self.leaves["phase"])
        message = torch.cat([memory, partner, features, encoded], 1) * self.has_mail[:, None]
        h = cell(message, memory, {name: self.leaves[name] for name in WEIGHTS})
        return h if empty == "update" else torch.where(self.has_mail[:, None], h, memory)

    def with_gradients(self, h: torch.Tensor) -> Named:
        leaves = list(self.leaves.values())
        gradients = torch.autograd.grad((h * self.probe).sum(), leaves, materialize_grads=True)
        return {"h": h.detach(), **dict(zip(self.leaves, gradients, strict=True))}


def cell(message: torch.Tensor, memory: torch.Tensor, weights: Named) -> torch.Tensor:
    """torch's GRUCell with the given weights."""
    module = torch.nn.GRUCell(message.shape[1], memory.shape[1], dtype=torch.float64)
    return torch.func.functional_call(module, weights, (message, memory))


def check(case: Case, agree: Agree, empty: str = "update") -> Named:
    """Both agree; the oracle's tensors are returned."""
    expected = case.with_gradients(case.expected(empty))
    agree(case.with_gradients(case.actual(empty)), expected)
    return expected


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
    case.leaves["weight_ih"] = case.normal(12, 4 + 2 + 5 + 3).requires_grad_()
    check(case, agree)


def test_int32_rows_are_as_good(agree: Agree) -> None:
    case = Case(123)
    wide = case.with_gradients(case.actual())
    case.indices = [rows.int() for rows in case.indices if rows is not None]
    agree(case.with_gradients(case.actual()), wide)


def test_without_mail_and_update_the_cell_runs_on_the_zero_message(agree: Agree) -> None:
    case = Case(123, mail="none")
    assert case.indices[0] is not None
    memory = case.leaves["memory"][case.indices[0]]
    assert float(memory.detach().abs().min(1).values.max()) > 0
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


def test_keep_takes_no_weight_gradient_from_rows_without_mail(agree: Agree) -> None:
    case = Case(123)
    both = case.with_gradients(case.actual("keep"))
    case.probe = case.probe * case.has_mail[:, None]
    mailed = case.with_gradients(case.actual("keep"))
    names = [name for name in both if name not in ("h", "memory")]
    agree({name: both[name] for name in names}, {name: mailed[name] for name in names})


@pytest.mark.parametrize("name", ["memory", "weight_ih", "frequency", "partner"])
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


def test_inputs_stay_as_they_are() -> None:
    case = Case(123)
    before = {name: leaf.detach().clone() for name, leaf in case.leaves.items()}
    case.with_gradients(case.actual("keep"))
    assert all(torch.equal(before[name], leaf) for name, leaf in case.leaves.items())


def test_unknown_empty_is_refused() -> None:
    with pytest.raises(ValueError, match="empty must be 'update' or 'keep', not 'skip'"):
        Case(3).actual("skip")


@pytest.mark.parametrize("shape", [(12, 17), (12, 15), (9, 16)])
def test_widths_that_do_not_add_up_are_refused(shape: tuple[int, int]) -> None:
    case = Case(3)
    case.leaves["weight_ih"] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=rf"weight_ih is \({shape[0]}, {shape[1]}\),.* 16; give \(12, 16\)"):
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


def right_or_refused(function: Callable[..., torch.Tensor], leaves: tuple[torch.Tensor, ...]) -> bool:
    gradients = torch.autograd.grad(function(*leaves).square().sum(), leaves, create_graph=True)
    try:
        sum(gradient.square().sum() for gradient in gradients).backward()
    except RuntimeError as error:  # once_differentiable's
        return "differentiate twice" in str(error)
    return torch.autograd.gradgradcheck(function, leaves, raise_exception=False)


def test_second_derivative_is_right_or_refused() -> None:
    case = Case(5, 2, rows=False, dim=2, times=2)
    case.deltas = case.deltas / 50
    function, leaves = function_of_leaves(case, "update"), tuple(case.leaves.values())
    assert right_or_refused(function, leaves), "the second derivative is wrong without a word"


@dataclass
class Mailbox:
    """A small stream's state, kept twice: whole messages as they were made, and the compact record."""

    nodes: int
    dim: int
    width: int

    def __post_init__(self) -> None:
        self.memory = torch.zeros(self.nodes, self.dim, dtype=torch.float64)
        self.memory_time = torch.full((self.nodes,), UNIX)  # the stream's first time
        self.message = torch.zeros(self.nodes, 2 * self.dim + self.width, dtype=torch.float64)
        self.partner = torch.zeros_like(self.memory)
        self.event = torch.full((self.nodes,), -1)
        self.mail_time = self.memory_time.clone()

    def write(self, h: torch.Tensor, events: list[tuple[int, int, int]], first: int, features: torch.Tensor) -> None:
        """After a batch: memory of its endpoints, then mails, the latest winning."""
        ends = sorted({node for src, dst, _ in events for node in (src, dst)})
        for node in ends:
            self.memory[node] = h[node]
            self.memory_time[node] = self.mail_time[node]
        for i, (src, dst, time) in enumerate(events):
            for own, other in ((src, dst), (dst, src)):
                self.message[own] = torch.cat([h[own], h[other], features[first + i]])
                self.partner[own] = h[other]
                self.event[own], self.mail_time[own] = first + i, time


@pytest.mark.parametrize("batch", [1, 5, 7])
def test_compact_mailbox_is_the_full_one(batch: int, agree: Agree) -> None:
    case = Case(0, 5)
    weights = {name: case.leaves[name].detach() for name in WEIGHTS}
    encoder = (case.leaves["frequency"].detach(), case.leaves["phase"].detach())
    pairs = torch.randint(0, 6, (30, 2), generator=case.random).tolist()
    stream = [(src, dst, UNIX + i // 2) for i, (src, dst) in enumerate([*pairs, [2, 2], [2, 2]])]
    features = case.normal(len(stream), 5)
    box = Mailbox(8, 4, 5)
    for first in range(0, len(stream), batch):
        deltas, has_mail = (box.mail_time - box.memory_time).double(), box.event >= 0
        full = torch.cat([box.message, torch.cos(deltas[:, None] * encoder[0] + encoder[1])], 1) * has_mail[:, None]
        expected = cell(full, box.memory, weights)
        actual = memory_gru(
            box.memory, None, box.partner, None, features, box.event, deltas, has_mail, *encoder, *weights.values()
        )
        agree({"h": actual}, {"h": expected})
        box.write(expected, stream[first : first + batch], first, features)
    assert bool((box.event[:6] >= 0).all())
    assert box.event[6:].tolist() == [-1, -1]
