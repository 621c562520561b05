"""Checks on every differentiable operation: registration, one compiled graph, single gradients, no second ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from tests.kernels.attention.attention_case import Case, MailCase
from tests.kernels.attention.layer_case import LayerCase
from tests.kernels.comparing import Agree
from tests.kernels.link import link_case
from tests.kernels.runtime.operation_case import OperationCase
from tests.kernels.updaters import updater_case
from tests.kernels.updaters.updater_case import GRU, RNN, SPLIT

Make = Callable[[], OperationCase]
DROPOUT = {"fanout": 4, "heads": 1, "choices": 2, "counts": "all", "dropout": 0.3}
FORMS: dict[str, Make] = {
    "temporal": partial(Case, 3, width=0),
    "temporal, dropout": partial(Case, 3, **DROPOUT),
    "temporal, by rows": partial(Case, 6, choices=3, indexed_features=True),
    "mailbox": partial(MailCase, 3, width=0),
    "mailbox, dropout": partial(MailCase, 3, **DROPOUT),
    "mailbox, by rows": partial(MailCase, 6, choices=3, indexed_features=True),
    "layer": partial(LayerCase, 4, width=0),
    "layer, dropout": partial(LayerCase, 4, dropout=0.3, indexed_features=True),
    "gru": partial(updater_case.Case, GRU, 6, count=4),
    "gru, keep": partial(updater_case.Case, GRU, 6, count=4, empty="keep"),
    "gru, split": partial(updater_case.Case, SPLIT, 6),
    "rnn": partial(updater_case.Case, RNN, 6),
    "rnn, keep": partial(updater_case.Case, RNN, 6, count=4, empty="keep"),
    "link": partial(link_case.Case, 4, junk=0.5),
    "link, counted": partial(link_case.Case, 4, 3, 3, junk=0.5),
    "link, pairs": partial(link_case.Case, 4, 3, 3, junk=0.5, features=2),
    "link, softmax": partial(link_case.Case, 4, junk=0.5, negatives=3, features=2, softmax=True),
}
pytestmark = [
    pytest.mark.parametrize("make", FORMS.values(), ids=FORMS),
    # For a root without neighbours the kernel computes −∞ − (−∞), and does not use the result.
    pytest.mark.filterwarnings("ignore:invalid value encountered in subtract:RuntimeWarning"),
]


@pytest.mark.sample(2)
@pytest.mark.parametrize("save", [True, False])
def test_the_operation_passes_opcheck(make: Make, save: bool) -> None:
    case = make()
    for name, leaf in case.leaves.items():
        leaf.requires_grad_(save and name not in case.unread)
    torch.library.opcheck(case.operation, case.arguments(save))


@pytest.mark.sample(4)
@pytest.mark.parametrize("subset", ["all", "first", "last", "none"])
def test_the_backward_operation_passes_opcheck(make: Make, subset: str) -> None:
    """Pass None for unread tensors, or placeholders of the tables' shapes if one of the tables needs a gradient."""
    case = make()
    names = [*case.leaves]
    targets = {"all": names, "first": names[:1], "last": names[-1:], "none": []}[subset]
    with torch.no_grad():
        results = case.operation(*case.arguments())
    values = [
        *case.detached_keywords().values(),
        *results,
        *case.probes,
        [name in targets for name in case.differentiable],
    ]
    schema = case.backward_operation._schema
    arguments = dict(zip((entry.name for entry in schema.arguments), values, strict=True))
    placeholders = any(name in case.unread for name in targets)
    for name in case.unread:
        arguments[name] = (
            arguments[name].new_empty(()).expand(arguments[name].shape) if placeholders and name in names else None
        )
    torch.library.opcheck(case.backward_operation, tuple(arguments.values()))


def test_a_second_derivative_is_refused(make: Make) -> None:
    case = make()
    result, leaf = case.actual(), next(iter(case.leaves.values()))
    result = result[0] if isinstance(result, tuple) else result
    (slope,) = torch.autograd.grad(result.sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=f"{case.name}_backward: no second derivative"):
        slope.sum().backward()


def test_it_compiles_as_one_graph(make: Make, agree: Agree) -> None:
    torch.compiler.reset()  # it would give up after eight forms of one function
    case = make()
    expected = case.with_gradients(case.actual())
    compiled = torch.compile(case.actual, fullgraph=True, backend="aot_eager")
    agree(case.with_gradients(compiled()), expected)


@pytest.mark.sample(2)
@pytest.mark.usefixtures("poisoned")
def test_the_gradient_of_one_leaf_alone(make: Make, backend: str, agree: Agree) -> None:
    case = make()
    expected = case.with_gradients(case.expected())
    for name in [*case.leaves][: 5 if backend == "triton" else None]:
        agree({name: case.gradient_alone(name)}, {name: expected[name]})
