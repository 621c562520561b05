"""Mini-batches of users: forms, sizes, restarts, random numbers apart from the model's, and what is refused."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from mspipe_triton.errors import ConfigError
from mspipe_triton.pipeline.graphpipe.run.data import DataSource, load_data

X, Y = torch.arange(12.0).view(4, 3), torch.arange(4)


def source(build: Callable[[], Any], seed: int = 0) -> DataSource:
    return DataSource("d:b", build, seed)


@pytest.mark.parametrize(
    ("item", "positions", "names"),
    [
        ((X, Y), 2, []),
        ([X, Y], 2, []),
        ((X,), 1, []),
        ({"x": X, "y": Y}, 0, ["x", "y"]),
        (((X,), {"y": Y}), 1, ["y"]),
        ([[X], {"y": Y}], 1, ["y"]),
        (((), {"x": X, "flag": True}), 0, ["x", "flag"]),
        ((X, {"y": Y}), 2, []),  # the second positional argument is a dict
        ((X, [Y, Y], None, 3), 4, []),
    ],
    ids=["tuple", "list", "one", "dict", "pair", "list pair", "only names", "dict as argument", "nested"],
)
def test_forms_of_mini_batches(item: Any, positions: int, names: list[str]) -> None:
    batch = source(lambda: [item]).next(4)
    assert (len(batch.args), list(batch.kwargs)) == (positions, names)
    assert isinstance(batch.args, tuple)


def test_a_loader_starts_again_in_another_order() -> None:
    data = source(lambda: DataLoader(TensorDataset(torch.arange(6)), batch_size=2, shuffle=True, drop_last=True))
    epochs = [[each for _ in range(3) for each in data.next(2).args[0].tolist()] for _ in range(4)]
    assert all(sorted(each) == list(range(6)) for each in epochs)
    assert len({tuple(each) for each in epochs}) > 1


def test_a_loader_collates_pairs() -> None:
    class Pairs(Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            return (X[index],), {"y": Y[index]}

    batch = source(lambda: DataLoader(Pairs(), batch_size=4)).next(4)
    assert torch.equal(batch.args[0], X)
    assert torch.equal(batch.kwargs["y"], Y)


def test_an_exhausted_generator_is_called_again() -> None:
    calls = []

    def batches() -> Iterator[tuple[Tensor]]:
        calls.append(1)
        yield (X,)
        yield (X + 1,)

    data = source(batches)
    assert [data.next(4).args[0][0, 0].item() for _ in range(5)] == [0, 1, 0, 1, 0]
    assert len(calls) == 3


def test_an_iterable_that_ends_for_good_is_refused() -> None:
    only = iter([(X,)])
    data = source(lambda: only)
    data.next(4)
    with pytest.raises(
        ConfigError, match=r"^--data 'd:b' has no mini-batches after 1, .*; return an iterable that can"
    ):
        data.next(4)
    with pytest.raises(ConfigError, match="has no mini-batches after 0"):
        source(list).skip(1)


def shuffled() -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield torch.rand(4, 3), torch.tensor([random.random(), np.random.rand(), torch.randn(()), 0])


def test_data_do_not_depend_on_what_else_draws_numbers() -> None:
    alone = source(shuffled, seed=3)
    expected = [alone.next(4).checksum for _ in range(5)]
    beside = source(shuffled, seed=3)
    seen = []
    for number in range(5):
        seen.append(beside.next(4).checksum)
        torch.rand(number + 1), np.random.rand(number + 1), random.random()
        torch.manual_seed(number)
    assert seen == expected
    assert len(set(seen)) == 5
    assert source(shuffled, seed=4).next(4).checksum != expected[0]


def test_the_process_does_not_see_what_data_draw() -> None:
    def numbers() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = [numbers() for _ in range(3)]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    data, seen = source(shuffled), []
    for _ in range(3):
        data.next(4)
        seen.append(numbers())
    assert seen == expected


def test_skipped_mini_batches_are_those_of_a_run_before() -> None:
    def loader() -> Any:
        return DataLoader(TensorDataset(torch.arange(8)), batch_size=2, shuffle=True)

    run, resumed = source(loader), source(loader)
    batches = [run.next(2) for _ in range(9)]
    resumed.skip(7)
    assert [resumed.next(2).checksum for _ in range(2)] == [each.checksum for each in batches[7:]]


@pytest.mark.parametrize(
    "other",
    [(X + 1, Y), (X.double(), Y), (X.view(4, 3, 1), Y), (X, Y, 1), ((X,), {"y": Y}), (X, Y.flip(0))],
    ids=["values", "type", "shape", "number", "names", "order"],
)
def test_checksums_differ(other: Any) -> None:
    assert source(lambda: [(X, Y)]).next(4).checksum != source(lambda: [other]).next(4).checksum


@pytest.mark.parametrize(
    "value",
    [X.t().contiguous().t(), X.bfloat16(), X > 3, X.to(torch.complex64).conj(), torch.ones(4, 0), X[:, ::2]],
    ids=["strides", "bfloat16", "bool", "conjugate", "empty", "view"],
)
def test_checksums_of_any_tensor(value: Tensor) -> None:
    checksums = {source(lambda: [(each,)]).next(4).checksum for each in (value, value.clone())}  # noqa: B023
    assert len(checksums) == 1


SIZE = (
    "the first dimension must be the plan's mini-batch of 4 samples (a DataLoader needs batch_size=4, drop_last=True)"
)
FIX = "return an iterable of mini-batches: tuples of tensors, dicts of them by argument, or pairs (tuple, dict)"
REFUSED: dict[str, tuple[Any, str]] = {
    "smaller": ((X[:3], Y[:3]), f"has shape (3, 3) at [0]; {SIZE}"),
    "one smaller": (({"x": X, "y": Y[:1]}), f"has shape (1,) at ['y']; {SIZE}"),
    "no dimension": ((X, torch.tensor(1.0)), f"has shape () at [1]; {SIZE}"),
    "bare": (X, f"is of type Tensor; {FIX}"),
    "none": (None, f"is of type NoneType; {FIX}"),
    "number": ((1, 2), f"has no tensors; {FIX}"),
    "array": ((X, X.numpy()), "holds a ndarray at [1]; convert it to a dense torch.Tensor"),
    "sparse": ((X.to_sparse(),), "holds a torch.sparse_coo tensor at [0]; convert it to a dense torch.Tensor"),
    "keys": ({1: X}, "has the key 1; use the names of the forward pass's arguments"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_mini_batch_is_refused(name: str) -> None:
    item, message = REFUSED[name]
    message = f"--data 'd:b': mini-batch 1 {message}"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        source(lambda: [item]).next(4)


def test_a_last_mini_batch_that_is_smaller_names_the_fix() -> None:
    data = source(lambda: DataLoader(TensorDataset(torch.arange(6)), batch_size=4))
    data.next(4)
    with pytest.raises(ConfigError, match=r"mini-batch 2 has shape \(2,\) at \[0\]; .*drop_last=True"):
        data.next(4)


def failing() -> Iterator[tuple[Tensor]]:
    yield (X,)
    raise KeyError("no column\nsecond line")


def test_an_error_of_the_iterable_is_told_in_one_line() -> None:
    data = source(failing)
    data.next(4)
    message = r"^--data 'd:b': mini-batch 2 raised KeyError: .*no column[^\n]*; fix the iterable$"
    with pytest.raises(ConfigError, match=message):
        data.next(4)


class Broken:
    def __iter__(self) -> Iterator[Any]:
        raise OSError("gone")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: 3, f"returned int; {FIX}"),
        (lambda: X, f"returned Tensor; {FIX}"),
        (lambda: {"x": X}, f"returned dict; {FIX}"),
        (lambda: 1 / 0, "the call raised ZeroDivisionError: division by zero; fix the callable"),
        (Broken, "mini-batch 1 raised OSError: gone; fix the iterable"),
    ],
    ids=["number", "tensor", "dict", "raises", "iter raises"],
)
def test_what_returns_no_mini_batches_is_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"{re.escape(message)}$"):
        source(build)


def test_data_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import torch\ndef batches():\n    while True:\n        yield (torch.rand(4),)\nnumber = 1\n"
    (tmp_path / "data_of_mine.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    monkeypatch.delitem(sys.modules, "data_of_mine", raising=False)
    torch.manual_seed(5)
    expected = torch.rand(4)
    assert torch.equal(load_data("data_of_mine:batches", seed=5).next(4).args[0], expected)
    for name, message in {
        "mine": "--data 'mine' is not module:attribute; name a callable, such as data.mine:batches",
        "absent_data:x": "--data 'absent_data:x': there is no module absent_data, installed or in this folder; .*",
        "data_of_mine:number": "--data 'data_of_mine:number' is of type int; name a callable that returns .*",
    }.items():
        with pytest.raises(ConfigError, match=f"^{message}$"):
            load_data(name)
