"""memory_gru and memory_rnn against torch's cells on whole messages: results, and every gradient by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from tests.kernels.comparing import Agree
from tests.kernels.runtime.operation_case import check
from tests.kernels.updaters.updater_case import GRU, RNN, WEIGHTS, Case, Updater, cell

UNIX = 1_600_000_000

pytestmark = pytest.mark.parametrize("updater", [GRU, RNN], ids=lambda updater: updater.name)
EMPTY = pytest.mark.parametrize("empty", ["update", "keep"])


def equations(updater: Updater, message: torch.Tensor, memory: torch.Tensor, case: Case) -> torch.Tensor:
    """Compute the docstring's equations for one node."""
    x, h = (
        (case.leaves[f"weight_{part}"] @ value + case.leaves[f"bias_{part}"]).chunk(updater.gates)
        for part, value in (("ih", message), ("hh", memory))
    )
    if updater is RNN:
        return torch.tanh(x[0] + h[0])
    reset, keep = torch.sigmoid(x[0] + h[0]), torch.sigmoid(x[1] + h[1])
    new = torch.tanh(x[2] + reset * h[2])
    return new + keep * (memory - new)


def test_the_cell_equals_its_equations(updater: Updater, agree: Agree) -> None:
    case = Case(updater, 7)
    message, memory = case.normal(7, 17), case.normal(7, 5)
    rows = [equations(updater, x, m, case) for x, m in zip(message, memory, strict=True)]
    agree({"h": cell(updater, message, memory, case.weights).detach()}, {"h": torch.stack(rows).detach()})


@EMPTY
@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("mail", [0.7, 0.0, 1.0])
@pytest.mark.parametrize("width", [0, 5])
@pytest.mark.parametrize("nodes", [0, 1, 123, 257])
def test_forward_and_gradients(
    updater: Updater, nodes: int, width: int, mail: float, rows: bool, empty: str, agree: Agree
) -> None:
    check(Case(updater, nodes, width=width, mail=mail, rows=rows, empty=empty), agree)


@EMPTY
def test_every_gradient_of_a_full_case_is_nonzero(updater: Updater, empty: str, agree: Agree) -> None:
    expected = check(Case(updater, 123, empty=empty), agree)
    assert all(float(value.abs().max()) > 1e-3 for value in expected.values())


@pytest.mark.parametrize("dim", [1, 100])
def test_other_widths(updater: Updater, dim: int, agree: Agree) -> None:
    check(Case(updater, 123, dim, 172, dim), agree)


@pytest.mark.parametrize("rows", [True, False])
def test_padded_tables(updater: Updater, rows: bool, agree: Agree) -> None:
    case = Case(updater, 123, rows=rows, padding=3)
    assert case.leaves["memory"].stride(0) == 8
    check(case, agree)


def test_a_partner_row_of_another_width(updater: Updater, agree: Agree) -> None:
    """Use partner rows narrower than memory, as projections may be."""
    case = Case(updater, 123)
    case.leaves["partner"] = case.table(2).requires_grad_()
    case.leaves["weight_ih"] = case.normal(updater.gates * 5, 5 + 2 + 3 + 4).requires_grad_()
    check(case, agree)


@EMPTY
@pytest.mark.parametrize("mail", [0.7, 1.0])
@pytest.mark.parametrize("count", [0, 77, 123])
def test_padding_nodes_are_zero_and_give_no_gradient(
    updater: Updater, count: int, mail: float, empty: str, agree: Agree
) -> None:
    case = Case(updater, 123, mail=mail, count=count, empty=empty)
    case.deltas[count:] = 1e9
    check(case, agree)


def test_negative_rows_are_read_as_row_zero(updater: Updater, agree: Agree) -> None:
    case = Case(updater, 123)
    assert case.picks[0] is not None
    case.picks[0] = case.picks[0].clamp(min=0)
    plain = case.with_gradients(case.actual())
    case.picks[0] = torch.where(case.picks[0] == 0, -5, case.picks[0])
    assert bool((case.picks[0] < 0).any())
    agree(case.with_gradients(case.actual()), plain)


def test_int32_rows(updater: Updater, agree: Agree) -> None:
    case = Case(updater, 123)
    wide = case.with_gradients(case.actual())
    case.picks = [rows.int() for rows in case.picks if rows is not None]
    agree(case.with_gradients(case.actual()), wide)


def test_update_without_mail_runs_the_cell_on_a_zero_message(updater: Updater, agree: Agree) -> None:
    case = Case(updater, 123, mail=0.0)
    assert case.picks[0] is not None
    memory = case.leaves["memory"][case.picks[0].clamp(min=0)]
    assert float(memory.detach().abs().min(1).values.max()) > 0
    expected = cell(updater, torch.zeros(123, 17, dtype=torch.float64), memory, case.weights)
    agree({"h": case.actual().detach()}, {"h": expected.detach()})
    gradients = case.with_gradients(case.actual())
    for name in ("partner", "features", "frequency", "phase", "weight_ih"):
        assert not gradients[name].any(), name
    assert all(gradients[name].any() for name in ("memory", "weight_hh", "bias_ih", "bias_hh"))


def test_keep_returns_the_memory_and_passes_the_gradient_to_it_alone(updater: Updater) -> None:
    case = Case(updater, 123, mail=0.0, rows=False, empty="keep")
    h = case.actual()
    assert torch.equal(h, case.leaves["memory"])
    gradients = case.with_gradients(h)
    assert torch.equal(gradients["memory"], case.probes[0])
    for name in set(gradients) - {"h", "memory"}:
        assert not gradients[name].any(), name


def test_keep_gives_no_weight_gradient_for_rows_without_mail(updater: Updater, agree: Agree) -> None:
    case = Case(updater, 123, empty="keep")
    both = case.with_gradients(case.actual())
    case.probes = (case.probes[0] * case.has_mail[:, None],)
    with_mail = case.with_gradients(case.actual())
    names = [name for name in both if name not in ("h", "memory")]
    agree({name: both[name] for name in names}, {name: with_mail[name] for name in names})


@EMPTY
def test_gradient_of_a_plain_sum(updater: Updater, empty: str, agree: Agree) -> None:
    """Pass an expanded scalar, whose strides are 0, as the incoming gradient."""
    case = Case(updater, 33, empty=empty)
    gradients = torch.autograd.grad(case.actual().sum(), list(case.leaves.values()))
    case.probes = (torch.ones_like(case.probes[0]),)
    expected = case.with_gradients(case.expected())
    agree(dict(zip(case.leaves, gradients, strict=True)), {name: expected[name] for name in case.leaves})


@EMPTY
@pytest.mark.parametrize("mail", [0.7, 1.0])
def test_inputs_and_incoming_gradients_are_unchanged(updater: Updater, mail: float, empty: str) -> None:
    case = Case(updater, 123, mail=mail, empty=empty)
    before = {name: leaf.detach().clone() for name, leaf in case.leaves.items()}
    h, probe = case.actual(), case.probes[0].clone()
    value = h.detach().clone()
    torch.autograd.grad(h, list(case.leaves.values()), probe)
    assert all(torch.equal(before[name], leaf) for name, leaf in case.leaves.items())
    assert torch.equal(probe, case.probes[0])
    assert torch.equal(h, value)


def test_an_unknown_empty_is_refused(updater: Updater) -> None:
    with pytest.raises(ValueError, match=f"{updater.name}: empty must be 'update' or 'keep', not 'skip'"):
        Case(updater, 3, empty="skip").actual()


@pytest.mark.parametrize(("gates", "width"), [(0, 18), (0, 16), (1, 17)])
def test_weights_of_the_wrong_shape_are_refused(updater: Updater, gates: int, width: int) -> None:
    case = Case(updater, 3)
    rows, right = 5 * (updater.gates + gates), 5 * updater.gates
    case.leaves["weight_ih"] = torch.zeros(rows, width, dtype=torch.float64)
    match = rf"{updater.name}: weight_ih is \({rows}, {width}\),.* 17; give \({right}, 17\)"
    with pytest.raises(ValueError, match=match):
        case.actual()


def test_weights_with_gaps_between_rows_are_refused(updater: Updater) -> None:
    case = Case(updater, 3)
    weight = case.leaves["weight_ih"]
    case.leaves["weight_ih"] = torch.cat([weight, weight], 1)[:, : weight.shape[1]]
    with pytest.raises(ValueError, match=rf"{updater.name}: weight_ih has strides .* give weight_ih.contiguous\(\)"):
        case.actual()


def small(updater: Updater, rows: bool = False, empty: str = "update") -> tuple[Case, Callable[..., torch.Tensor]]:
    """Make a small case, and h as a function of its leaves."""
    case = Case(updater, 5, 2, 2, 2, rows, mail=0.5, empty=empty)
    case.deltas = case.deltas / 3  # numerical differences in w need short times
    assert {True, False} == set(case.has_mail.tolist())

    def function(*leaves: torch.Tensor) -> torch.Tensor:
        case.leaves = dict(zip(case.leaves, leaves, strict=True))
        return case.actual()

    return case, function


@EMPTY
@pytest.mark.parametrize("rows", [True, False])
def test_gradcheck(updater: Updater, rows: bool, empty: str) -> None:
    case, function = small(updater, rows, empty)
    assert torch.autograd.gradcheck(function, tuple(case.leaves.values()))


def test_a_second_derivative_is_refused(updater: Updater) -> None:
    case, _ = small(updater)
    leaves = list(case.leaves.values())
    gradients = torch.autograd.grad(case.actual().square().sum(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        sum(gradient.square().sum() for gradient in gradients).backward()


@dataclass
class Mailbox:
    """State of a small stream, stored twice: as whole messages, and as compact records."""

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
        """Write memory of the batch's endpoints, then their mails, of which the latest wins."""
        ends = sorted({node for src, dst, _ in events for node in (src, dst)})
        for node in ends:
            self.memory[node] = h[node]
            self.memory_time[node] = self.mail_time[node]
        for i, (src, dst, time) in enumerate(events):
            for node, partner in ((src, dst), (dst, src)):
                self.message[node] = torch.cat([h[node], h[partner], features[first + i]])
                self.partner[node] = h[partner]
                self.event[node], self.mail_time[node] = first + i, time


@pytest.mark.parametrize("batch", [1, 5, 7])
def test_the_compact_mailbox_equals_whole_messages(updater: Updater, batch: int, agree: Agree) -> None:
    case = Case(updater, 0)
    weights = {name: case.leaves[name].detach() for name in WEIGHTS}
    encoder = (case.leaves["frequency"].detach(), case.leaves["phase"].detach())
    pairs = torch.randint(0, 6, (30, 2), generator=case.random).tolist()
    stream = [(src, dst, UNIX + i // 2) for i, (src, dst) in enumerate([*pairs, [2, 2], [2, 2]])]
    features = case.normal(len(stream), 3)
    box = Mailbox(8, 5, 3)
    for first in range(0, len(stream), batch):
        deltas, has_mail = (box.mail_time - box.memory_time).double(), box.event >= 0
        full = torch.cat([box.message, torch.cos(deltas[:, None] * encoder[0] + encoder[1])], 1) * has_mail[:, None]
        expected = cell(updater, full, box.memory, weights)
        actual = updater.function(
            box.memory, None, box.partner, None, features, box.event, deltas, has_mail, *encoder, *weights.values()
        )
        agree({"h": actual}, {"h": expected})
        box.write(expected, stream[first : first + batch], first, features)
    assert bool((box.event[:6] >= 0).all())
    assert box.event[6:].tolist() == [-1, -1]
