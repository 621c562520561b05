"""Features of events that a predictor takes in: matrices and tables of every form, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from mspipe_triton import Predictor, load
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.new_events import new_events_of
from mspipe_triton.errors import InputError
from tests.serving.served import APRIL, ONES, WEB, state, trained


@pytest.mark.parametrize(
    "features",
    [ONES, tuple(ONES), [ONES], np.array(ONES), np.array([ONES]), torch.ones(1, 3), torch.ones(3, requires_grad=True),
     torch.ones(3, dtype=torch.bfloat16), ["1", "1", "1"], [True, True, True], (each for each in ONES), pd.Series(ONES),
     pd.Series(ONES, index=[4, 2, 9]), pl.Series(ONES), np.array(ONES, object)],
    ids=lambda features: type(features).__name__,
)  # fmt: skip
def test_features_of_every_form(features: Any, predictor: Predictor, run: Path, small_stream: EventStream) -> None:
    predictor.observe(1, 70, predictor.time, features)
    plain = load(run, stream=small_stream)
    plain.observe([1], [70], [plain.time], np.ones((1, 3)))
    assert state(predictor) == state(plain)


@pytest.mark.parametrize(
    "features",
    [WEB, {"channel": "web", "amount": "1.5", "more": 7}, {"amount": [1.5], "channel": np.array(["web"])},
     {"Amount": 1.5, "CHANNEL": "web"}, [WEB], (WEB,), pd.DataFrame([WEB], index=[7]), pd.DataFrame([WEB]).iloc[0],
     pd.Series(WEB), pl.DataFrame([WEB]), pl.DataFrame([WEB]).lazy(), pl.DataFrame([WEB]).row(0, named=True),
     pa.table({"amount": [1.5], "channel": ["web"]}), pa.record_batch({"channel": ["web"], "amount": [1.5]}),
     np.array([(1.5, "web")], dtype=[("amount", float), ("channel", "U5")]),
     np.array([(1.5, "web")], dtype=[("amount", float), ("channel", "U5")])[0]],
    ids=lambda features: type(features).__name__,
)  # fmt: skip
def test_features_by_name(features: Any, shop_run: Path) -> None:
    predictor, plain = load(shop_run), load(shop_run)
    predictor.observe("u1", 100, APRIL, features)
    frame = {"user": ["u1"], "item": [100], "when": [APRIL], "amount": [1.5], "channel": ["web"]}
    plain.predict_table(new_events_of(frame, plain.reading))
    assert torch.equal(predictor._live.edges.rows, plain._live.edges.rows)
    np.testing.assert_allclose(predictor.embed(), plain.embed(), rtol=1e-4, atol=1e-4)


def test_unknown_categories_are_one(shop_run: Path) -> None:
    rows = []
    for channel in ("phone", "fax", None, "web"):
        predictor = load(shop_run)
        predictor.observe("u1", 100, APRIL, {"amount": 1.5, "channel": channel})
        rows.append(predictor._live.edges.rows[-1].tolist())
    assert rows[0] == rows[1] == rows[2] != rows[3]
    assert all(sum(row[-4:]) == 1 for row in rows)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (None, "features are missing: the run's events have width 5 (amount, channel); pass features="),
        ([1.5, 2], "features is a matrix, and column channel of the run's is text; pass a table with amount, channel"),
        ({"amount": 1.5}, "features have no column 'channel'; the run's are amount, channel"),
        ({}, "no column 'amount'"),
        ({"amount": "much", "channel": "web"}, "amount is 'much', not a number"),
        ({"amount": None, "channel": "web"}, "amount is empty"), ({"amount": math.nan, "channel": "web"}, "is empty"),
        ({"amount": math.inf, "channel": "web"}, "amount is inf, not finite"),
        ({"amount": [1, 2], "channel": ["a", "b"]}, "features have 2 rows for 1 events; give one per event"),
        ({"amount": [1, 2], "channel": ["a"]}, "columns differ in length"),
    ],
)  # fmt: skip
def test_features_that_are_refused(features: Any, message: str, shop_run: Path) -> None:
    predictor = load(shop_run)
    before = state(predictor)
    with pytest.raises(InputError) as caught:
        predictor.observe("new", 100, APRIL, features)
    assert message in str(caught.value)
    assert state(predictor) == before


def test_a_run_without_features(small_stream: EventStream, tmp_path: Path) -> None:
    plain = EventStream(small_stream.src, small_stream.dst, small_stream.t)
    predictor = load(trained(tmp_path, plain, "tgn"), stream=plain)
    with pytest.raises(InputError, match="features: the run's events have none; omit features"):
        predictor.observe(1, 70, predictor.time, [1.0])
    assert predictor.observe([1, 2], [70, 71], predictor.time + 1) == 2
