"""Bodies of all kinds: no answer says that the service failed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mspipe_triton import Predictor, load
from mspipe_triton.data.events import EventStream
from mspipe_triton.serving.service.web.answers import ARROW, JSON
from mspipe_triton.serving.service.web.documents import QUESTIONS
from tests.serving.service.web.fronts import Client, Predicting, serving, stream_of

FUZZ = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
PATHS = st.sampled_from(list(QUESTIONS))
NUMBERS = st.one_of(
    st.integers(-5, 200),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([1e308, 2**63, 2**64]),
)
TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["u1", "100", "2024-04-01", "cached", "user", "drop", "1e400", "NaN", "\u0000", "-0"]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8
)
# Fields of the shop's run, then of the other one.
GOOD: tuple[dict[str, list[Any]], ...] = (
    {
        "src": ["u1", ["u1", "u2"]],
        "dst": [100, [100, "104"]],
        "nodes": ["u1", ["u1", "u1"]],
        "t": ["2024-04-01", ["2024-04-01", "2025-01-01"], 1711929600],
        "features": [{"amount": 1, "channel": "web"}, {"amount": [1, 2], "channel": ["web", "app"]}],
        "kind": ["user"],
    },
    {
        "src": [1, [1, 2]],
        "dst": [70, [70, "71"]],
        "nodes": [1, [1, 2], "70"],
        "t": [10**12, [10**12, 10**12 + 1], "1000000000000"],
        "features": [[1, 1, 1], [[1, 1, 1], [0.5, 1e30, -1]]],
        "kind": [None],
    },
)
ANY: dict[str, list[Any]] = {
    "candidates": [None, [100, "101"], [70, 71], []],
    "top": [1, 5],
    "mode": ["exact", "cached"],
    "late": ["refuse", "drop"],
    "new": [False, True],
    "probability": [False, True],
}
LUCK = st.sampled_from(["good"] * 16 + ["odd"] * 3 + ["any", "missing"])
IDS = st.integers(-(2**63), 2**64 - 1) | TEXTS
TIMES = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
ODD: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("src", "dst", "nodes", "candidates"), IDS | st.lists(IDS, max_size=3)),
    "t": TIMES | st.lists(TIMES, min_size=1, max_size=2),
    "features": st.lists(NUMBERS, max_size=3)
    | st.lists(st.lists(NUMBERS, min_size=3, max_size=3), max_size=2)
    | st.fixed_dictionaries({"amount": SCALARS, "channel": SCALARS})
    | st.fixed_dictionaries(dict.fromkeys(("amount", "channel"), st.lists(SCALARS, min_size=1, max_size=2))),
}
COLUMNS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2),
    st.lists(st.sampled_from(["u1", "u2", "2024-04-01", "new", ""]), min_size=2, max_size=2),
    st.lists(st.floats() | st.none(), min_size=2, max_size=2),
    st.lists(st.booleans() | st.none(), min_size=2, max_size=2),
    st.lists(st.datetimes(), min_size=2, max_size=2),
    st.lists(st.lists(st.floats(), max_size=3), min_size=2, max_size=2),
    st.lists(st.binary(max_size=3), min_size=2, max_size=2),
    st.lists(
        st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-9, max_value=9), min_size=2, max_size=2
    ),
)


class Fuzzed(NamedTuple):
    """A front, and its backend with the function that loads its predictor."""

    client: Client
    backend: Predicting
    loads: Callable[[], Predictor]

    def check(self, path: str, body: bytes, kind: str) -> None:
        """Send a body, and check that the answer does not say that the service failed."""
        answer = self.client.post(path, body, content_type=kind)
        assert answer.status in (200, 400, 413, 422), (path, body, answer.data)
        if answer.status != 200:
            assert answer.detail
        elif kind == JSON:
            json.loads(answer.data, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        if self.backend.batches:  # whose times may be so late that all others are refused
            self.backend.batches.clear()
            self.backend.predictor = self.loads()


@pytest.fixture(scope="module", params=["shop", "plain"])
def fuzzed(request: pytest.FixtureRequest, shop_run: Path, run: Path, small_stream: EventStream) -> Iterator[Fuzzed]:
    loads = partial(load, shop_run) if request.param == "shop" else partial(load, run, stream=small_stream)
    backend = Predicting(loads())
    with serving(backend) as client:
        yield Fuzzed(client, backend, loads)


@st.composite
def forms(draw: st.DrawFn) -> tuple[str, bytes]:
    """A path with a body that fits in most fields, or holds odd values that may fit."""
    path, good = draw(PATHS), draw(st.sampled_from(GOOD)) | ANY
    body = {}
    for name in QUESTIONS[path].form.model_fields:
        kind = draw(LUCK)
        if kind == "good" or (kind == "odd" and name not in ODD):
            body[name] = draw(st.sampled_from(good[name]))
        elif kind != "missing":
            body[name] = draw(ODD[name] if kind == "odd" else VALUES)
    return path, json.dumps(body).encode()


@FUZZ
@given(data=forms())
def test_forms(fuzzed: Fuzzed, data: tuple[str, bytes]) -> None:
    fuzzed.check(*data, JSON)


@FUZZ
@given(path=PATHS, body=st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_other_bodies(fuzzed: Fuzzed, path: str, body: bytes) -> None:
    fuzzed.check(path, body, JSON)
    fuzzed.check(path, body, ARROW)


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, bytes]:
    """A path with options and an Arrow stream, in which columns are odd or some bytes wrong."""
    path, good = draw(PATHS), draw(st.sampled_from(GOOD)) | ANY
    names = {"/rank": ["candidates"], "/embed": ["node"], "/score": ["src", "dst", "t"]}.get(path, ["src", "dst", "t"])
    if path == "/observe":
        names += draw(st.sampled_from([["amount", "channel"], ["features"], ["x"], []]))
    good = good | {"amount": [[1, 2.5]], "channel": [["web", "app"]], "features": [[[1, 1, 1], [0.5, 1e30, -1]]]}
    columns = {}
    for name in names:
        values = [
            each for each in good.get({"node": "nodes"}.get(name, name), []) if isinstance(each, list) and len(each) > 1
        ]
        column = column_of(draw(st.sampled_from(values) if values and draw(LUCK) == "good" else COLUMNS))
        columns[name] = (
            column.dictionary_encode() if draw(st.booleans()) and pa.types.is_string(column.type) else column
        )
    body = bytearray(stream_of(columns))
    for _ in range(draw(st.sampled_from([0, 0, 1, 4]))):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    needed = {"/rank": {"src": "u1"}, "/embed": {"kind": "user"}}.get(path, {}) if draw(st.booleans()) else {}
    options = needed | draw(
        st.dictionaries(st.sampled_from(["src", "top", "t", "new", "kind", "late"]), TEXTS, max_size=2)
    )
    query = "&".join(f"{name}={quote(value.encode('utf-8', 'surrogatepass'))}" for name, value in options.items())
    return f"{path}?{query}", bytes(body)


def column_of(values: list[Any]) -> pa.Array:
    """A column of values, as text if they have no type of their own."""
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError):
        return pa.array([str(each) for each in values])


@FUZZ
@given(data=tables())
def test_tables(fuzzed: Fuzzed, data: tuple[str, bytes]) -> None:
    fuzzed.check(*data, ARROW)


def test_wrong_bytes_at_each_place_of_a_stream(fuzzed: Fuzzed) -> None:
    body = stream_of({"src": pa.array(["u1", "u2"]).dictionary_encode(), "dst": [100, 101], "t": ["2024-04-01"] * 2})
    random = np.random.default_rng(0)
    for place in range(0, len(body), 3):
        wrong = bytearray(body)
        wrong[place] ^= int(random.integers(1, 256))
        fuzzed.check("/score", bytes(wrong), ARROW)
