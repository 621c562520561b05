"""The attention layer as kernels: every gradient against torch, poisoned memory, widths, launch counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from mspipe_triton.kernels.runtime import launch
from tests.kernels.attention.layer_case import LayerCase
from tests.kernels.comparing import Agree, Derived
from tests.kernels.runtime.operation_case import comparison

# For a root without neighbours the kernel computes −∞ − (−∞), and does not use the result.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in subtract:RuntimeWarning")

FORMS: dict[str, dict[str, Any]] = {
    "one of each": {
        "roots": 1, "fanout": 1, "width": 1, "heads": 1, "dim": 1, "times": 1, "distinct": 1, "counts": "all",
    },
    "some roots": {"roots": 8},
    "dropout": {"roots": 5, "dropout": 0.3, "indexed_features": True},
    "one neighbour, no edge features": {"roots": 5, "fanout": 1, "width": 0},
    "no neighbours": {"roots": 4, "counts": "none"},
    "wiki": {"roots": 4, "fanout": 3, "width": 172, "dim": 100, "times": 100},
    "three heads": {"roots": 5, "heads": 3, "dim": 51, "times": 5, "eps": 0.1},
}  # fmt: skip
BACKWARD = [
    "attention_output_backward_kernel", "attention_backward_kernel", "attention_query_backward_kernel",
    "attention_weights_kernel", "attention_sums_kernel",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sum the parts in large blocks: the interpreter's time grows with the number of programs."""
    for kind in ("float32", "float64"):
        monkeypatch.setitem(
            launch.KERNELS["attention_sums_kernel"].chosen, kind, launch.Config({"BLOCK": 4096})
        )  # fmt: skip


@pytest.fixture(params=[False, True], ids=["atomic", "deterministic"])
def _both_sums(request: pytest.FixtureRequest) -> Iterator[None]:
    """Sum the table's gradient over roots and slots in both ways."""
    torch.use_deterministic_algorithms(request.param)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize("form", FORMS)
def test_float32(form: str, derived: Derived) -> None:
    derived(*comparison(LayerCase(**FORMS[form]).to(torch.float32)))


@pytest.mark.usefixtures("interpreter", "poisoned", "_both_sums")
@pytest.mark.parametrize("form", ["one of each", "dropout"])
def test_float64(form: str, agree: Agree) -> None:
    case = LayerCase(**FORMS[form])
    agree(case.with_gradients(case.actual()), case.with_gradients(case.expected()))


@pytest.mark.usefixtures("interpreter", "poisoned")
def test_roots_and_columns_in_several_blocks(monkeypatch: pytest.MonkeyPatch, agree: Agree) -> None:
    """Include a last part, and a last block of a head, that are not full."""
    for name, kernel in launch.KERNELS.items():
        if name.startswith("attention_") and name not in ("attention_kernel", "attention_backward_kernel"):
            smallest = {block: 128 if "sums" in name else 16 for block in kernel.chosen["float32"].blocks}
            monkeypatch.setitem(kernel.chosen, "float64", launch.Config(smallest))
    case = LayerCase(17, 1, 5, 1, dim=20, times=3, dropout=0.3, distinct=20)
    agree(case.with_gradients(case.actual()), case.with_gradients(case.expected()))


@pytest.mark.usefixtures("interpreter", "poisoned", "_both_sums")
def test_padding_int32_indices_and_gaps_between_rows(agree: Agree) -> None:
    case = LayerCase(6, indexed_features=True)
    expected = case.with_gradients(case.expected())
    case.spoil(torch.nan)
    case.narrow()
    case.probes = (case.probes[0].t().contiguous().t(),)
    agree(case.with_gradients(case.actual()), expected)


@pytest.mark.usefixtures("interpreter", "poisoned")
def test_empty_slots_are_not_read(agree: Agree) -> None:
    case = LayerCase(4)
    expected = case.with_gradients(case.expected())
    case.spoil(torch.nan)
    agree(case.with_gradients(case.actual()), expected)


@pytest.mark.usefixtures("interpreter", "poisoned")
def test_bfloat16_rows(derived: Derived) -> None:
    derived(*comparison(LayerCase(5, indexed_features=True).to(torch.float32, torch.bfloat16)))


@pytest.mark.usefixtures("interpreter", "poisoned", "_both_sums")
def test_no_roots() -> None:
    case = LayerCase(0)
    results = case.with_gradients(case.actual())
    assert results["z"].shape == (0, 6)
    assert not any(bool(value.any()) for value in results.values())


@pytest.mark.usefixtures("interpreter", "poisoned")
def test_output_dropout_drops_the_same_elements_as_torch() -> None:
    """Make every y positive, so that ReLU's result is 0 exactly where y was dropped."""
    case = LayerCase(9, dropout=0.6, counts="none").to(torch.float32)
    case.leaves["output_bias"] = torch.full((6,), 100.0)
    with torch.no_grad():
        activation = case.saved_activation()
        launch.use_triton(False)
        expected = case.saved_activation()
    assert torch.equal(activation == 0, expected == 0)
    assert 0 < int((activation == 0).sum()) < activation.numel()


@pytest.mark.usefixtures("interpreter")
def test_nan_is_passed_on() -> None:
    case = LayerCase(4, counts="none")
    with torch.no_grad():
        case.leaves["table"][int(case.root_rows[1])] = torch.nan
        z = case.actual()
    assert bool(z[1].isnan().all())
    assert not bool(z.isnan().all())


@pytest.mark.parametrize("learned", [True, False], ids=["learned", "fixed"])
@pytest.mark.parametrize("table", [True, False], ids=["table", "no table"])
def test_launches(table: bool, learned: bool) -> None:
    case = LayerCase(5, dropout=0.3)
    for name in ("frequency", "phase"):
        case.leaves[name].requires_grad_(learned)
    case.leaves["table"].requires_grad_(table)
    with launch.recording() as forward:
        z = case.actual()
    with launch.recording() as backward:
        z.sum().backward()
    assert [entry.kernel.name for entry in forward] == [
        "attention_query_kernel", "attention_kernel", "attention_output_kernel",
    ]  # fmt: skip
    assert [entry.kernel.name for entry in backward] == BACKWARD + ["attention_times_kernel"] * learned


def test_rows_too_wide_for_the_blocks_get_the_smallest_blocks() -> None:
    for dim, smallest in ((256, False), (300, True)):
        case = LayerCase(2, dim=dim).to(torch.float32)
        with launch.recording() as launches:
            case.actual().sum().backward()
        by_row = [entry for entry in launches if "BLOCK_R" in entry.config.blocks and "HEADS" in entry.constants]
        fitted = [entry for entry in by_row if entry.kernel.name != "attention_weights_kernel"]
        assert len(fitted) == 4
        assert all((set(entry.config.blocks.values()) == {16}) == smallest for entry in fitted)
