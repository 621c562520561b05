"""Scaling of features: against the rule written out in plain Python, on tails, shifts and memory-mapped tables."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch

from mspipe_triton.data import scaling as module
from mspipe_triton.data.scaling import Scaling, check_finite, scaled_in_chunks

RANDOM = np.random.default_rng(5)
COLUMNS = {
    "normal": RANDOM.normal(5, 2, 3000),
    "lognormal": RANDOM.lognormal(0, 2, 3000),
    "cents": np.round(100 * RANDOM.lognormal(3, 2, 3000)),
    "signed": RANDOM.standard_t(1.2, 3000),
    "shifted": 1e6 + RANDOM.lognormal(0, 2, 3000),
    "mostly zero": np.where(RANDOM.random(3000) < 0.8, 0, RANDOM.lognormal(0, 3, 3000)),
    "times": 1.6e9 + np.arange(3000.0),
    "rare": (np.arange(3000) % 1500 == 0).astype(float),
    "constant": np.full(3000, 0.1),
    "huge": 1e200 * RANDOM.standard_cauchy(3000),
}
TRAINING = 2001


def plain(values: list[float], training: int) -> tuple[list[float], bool]:
    """Scaled values and the use of the logarithm, for fewer training rows than medians are taken from."""
    part = values[:training]
    centre = statistics.median_low(part)
    apart = [abs(x - centre) for x in part if x != centre]
    spread = statistics.median_low(apart) if apart else 1.0

    def logarithm(x: float) -> float:
        return math.copysign(math.log1p(abs(x - centre) / spread), x - centre)

    mean, deviation = statistics.fmean(part), statistics.pstdev(part)
    far = max(abs(x - mean) for x in part) > 10 * deviation
    log = far and max(abs(x - centre) for x in part) > 10 * spread
    if log:
        values = [logarithm(x) for x in values]
        mean, deviation = statistics.fmean(values[:training]), statistics.pstdev(values[:training])
    return [min(10.0, max(-10.0, (x - mean) / (deviation or 1.0))) for x in values], log


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_are_scaled_by_the_rule(name: str) -> None:
    values = COLUMNS[name]
    scaling = Scaling.fit(values[:, None], TRAINING)
    expected, log = plain(values.tolist(), TRAINING)
    assert scaling.log.tolist() == [log]
    result = scaling.apply(torch.from_numpy(values)[:, None])
    assert result.dtype == torch.float32
    # The sums of both round in float64, with errors far below that of the float32 result.
    np.testing.assert_allclose(result[:, 0].numpy(), expected, rtol=2e-7, atol=2e-7)


def test_long_tails_get_the_logarithm_and_others_do_not() -> None:
    table = np.stack(list(COLUMNS.values()), 1)
    log = dict(zip(COLUMNS, Scaling.fit(table, TRAINING).log.tolist(), strict=True))
    assert {name for name in log if log[name]} == {"lognormal", "cents", "signed", "shifted", "mostly zero", "huge"}


def test_outliers_after_training_are_clipped() -> None:
    values = torch.cat([torch.randn(100, 1), torch.tensor([[1e30], [-1e30]])])
    assert Scaling.fit(values, 100).apply(values)[100:, 0].tolist() == [10.0, -10.0]


def test_training_rows_may_be_numbers() -> None:
    table = np.stack([COLUMNS["normal"], COLUMNS["lognormal"]], 1)
    rows = RANDOM.permutation(3000)[:500]
    first, second = Scaling.fit(table, rows), Scaling.fit(table[rows], 500)
    assert first.to_json() == second.to_json()


def test_results_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    table = torch.from_numpy(np.stack([COLUMNS["normal"], COLUMNS["lognormal"], COLUMNS["rare"]], 1))
    scaling = Scaling.fit(table, TRAINING)
    whole = scaling.apply(table)
    monkeypatch.setattr(module, "_CHUNK", 3 * 7)
    assert torch.equal(scaled_in_chunks(table, scaling, 3000), whole)
    rows = RANDOM.integers(0, 3000, 123)
    assert torch.equal(scaled_in_chunks(table.numpy(), scaling, rows), whole[torch.from_numpy(rows)])
    again = Scaling.fit(table, TRAINING)
    assert torch.equal(again.log, scaling.log)
    assert torch.allclose(again.deviation, scaling.deviation, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint16, np.int64, np.float16, np.float32, np.float64, ">f4"])
def test_every_numeric_type_works(dtype: str | type, tmp_path: Path) -> None:
    values = RANDOM.integers(0, 2, (50, 2)).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert Scaling.fit(mapped, 40).to_json() == Scaling.fit(values.astype(np.float64), 40).to_json()


def test_json_is_exact() -> None:
    table = np.stack(list(COLUMNS.values()), 1)
    for scaling in (Scaling.fit(table, TRAINING), Scaling.identity(table.shape[1])):
        other = Scaling.from_json(json.loads(json.dumps(scaling.to_json())))
        assert torch.equal(other.apply(torch.from_numpy(table)), scaling.apply(torch.from_numpy(table)))
        assert torch.equal(
            other.on(torch.device("cpu")).apply(torch.from_numpy(table)), scaling.apply(torch.from_numpy(table))
        )


def test_identity_changes_nothing() -> None:
    values = torch.randn(10, 3) * 1e20
    assert torch.equal(Scaling.identity(3).apply(values), values)


@pytest.mark.parametrize("training", [0, 1, 2])
def test_few_rows(training: int) -> None:
    values = torch.tensor([[3.0], [5.0], [1e9]])
    expected = {0: [3, 5, 10], 1: [0, 2, 10], 2: [-1, 1, 10]}[training]
    assert Scaling.fit(values, training).apply(values)[:, 0].tolist() == expected


def test_the_first_value_that_is_not_finite_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 20)
    values = torch.zeros(100, 4)
    values[57, 2], values[58, 0] = math.inf, math.nan

    def refuse(row: int, column: int, value: float) -> None:
        raise LookupError(row, column, value)

    with pytest.raises(LookupError, match=r"57, 2, inf"):
        check_finite(values, 100, refuse)
    with pytest.raises(LookupError, match=r"1, 0, nan"):
        check_finite(values, np.array([3, 58, 57]), refuse)
    check_finite(values, 57, refuse)
