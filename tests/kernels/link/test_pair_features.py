"""Features of pairs: the reference against a plain oracle, padding, leakage, sizes, and inputs that are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.kernels import enable_debug, pair_features
from mspipe_triton.kernels.link import pair_features as module
from tests.kernels.link.pair_case import LARGE, UNIX, Case, cases, random_case

F32, F64 = torch.float32, torch.float64


def check(case: Case) -> None:
    """Compare the features in float64 with the oracle's."""
    actual = pair_features(**case.arguments())
    torch.testing.assert_close(actual, case.expected(), rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=200)
@given(case=cases())
def test_any_stream_against_the_oracle(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("newer", [0, 70])
@pytest.mark.parametrize(("queries", "candidates"), [(0, 3), (1, 1), (3, 0), (123, 2), (11, 33)])
def test_sizes(queries: int, candidates: int, newer: int) -> None:
    check(random_case(200, queries, candidates, newer))


def test_parts_of_the_pairs_join(monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(200, 31, 3)
    whole = pair_features(**case.arguments())
    for pairs in (1, 10, 92):
        monkeypatch.setattr(module, "_PAIRS", pairs)
        assert torch.equal(pair_features(**case.arguments()), whole)


def test_a_stream_of_one_event() -> None:
    queries = [(src, [0, 1, 2, 5], time, 1) for src in (0, 1, 2, 5, -1) for time in (UNIX, UNIX + 3)]
    check(Case([(0, 1, UNIX)], queries, 4))
    check(Case([(5, 5, UNIX)], queries, 4))


def test_without_events_every_source_is_new() -> None:
    case = Case([], [(0, [1, -1], UNIX, 0), (-1, [1, 1], UNIX, 0)], 2)
    check(case)
    assert pair_features(**case.arguments()).nonzero().tolist() == [[0, 0, 28]]


@pytest.mark.parametrize("kind", [torch.int64, torch.float64])
@pytest.mark.parametrize("gap", [1, 63, 16_777_217])
def test_times_are_subtracted_before_they_are_rounded(kind: torch.dtype, gap: int) -> None:
    start = LARGE - 20_000_000
    case = Case([(0, 1, start)], [(0, [1], start + gap, 1)], 1, kind)
    expected = torch.log1p(torch.tensor(float(gap), dtype=F32)) / 10
    assert torch.equal(pair_features(**case.arguments(F32))[0, 0, [5, 21]], expected.repeat(2))


@settings(deadline=None, max_examples=50)
@given(case=cases(), dtype=st.sampled_from([F32, F64]))
def test_padding_has_features_0_and_changes_no_other_pair(case: Case, dtype: torch.dtype) -> None:
    arguments = case.arguments(dtype)
    src, dst = arguments["src"], arguments["dst"]
    real = (src >= 0).unsqueeze(1) & (dst >= 0)
    features = pair_features(**arguments)
    assert features.dtype == dtype
    assert not features[~real].any()
    full = pair_features(**{**arguments, "src": src.clamp(min=0), "dst": dst.clamp(min=0)})
    assert torch.equal(features[real], full[real])


@settings(deadline=None, max_examples=100)
@given(case=cases(), data=st.data())
def test_later_events_change_nothing(case: Case, data: st.DataObject) -> None:
    """Replace all events at or after a query's time by others, or by none: its features stay, bit for bit."""
    for query in case.queries:
        past = [event for event in case.events if event[2] < query[2]]
        node = st.integers(0, 5)
        later = [(src, dst, query[2] + k) for k, (src, dst) in enumerate(data.draw(st.lists(st.tuples(node, node))))]
        alone = replace(case, queries=[query], parts=())
        other = replace(alone, events=past + later)
        assert alone.before() == other.before()
        assert torch.equal(pair_features(**alone.arguments()), pair_features(**other.arguments()))


def test_ids_may_be_int32_and_inputs_are_unchanged() -> None:
    arguments = random_case(200, 20, 3, 50).arguments()
    before = {name: value.clone() for name, value in arguments.items() if isinstance(value, torch.Tensor)}
    narrow = {name: arguments[name].int() for name in ("src", "dst")}
    assert torch.equal(pair_features(**{**arguments, **narrow}), pair_features(**arguments))
    assert all(torch.equal(arguments[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_keys": torch.zeros(200)}, "source_keys is torch.float32; give int64"),
        ({"pair_keys": torch.zeros(7).long()}, r"pair_keys has shape \(7,\); give \(200,\)"),
        ({"earlier": torch.zeros(200, 2).int()}, r"earlier has shape \(200, 2\); give \(200, 3\)"),
        ({"popularity": torch.zeros(200, 3).half()}, "popularity is torch.float16; give float32 or float64"),
        ({"times": torch.zeros(200)}, "times is torch.float32; give int64 or float64"),
        ({"query_times": torch.zeros(4).double()}, "query_times is torch.float64; give int64"),
        ({"before": torch.zeros(4).int()}, "before is torch.int32; give int64"),
        ({"before": torch.zeros(5).long()}, r"before has shape \(5,\); give \(4,\)"),
        ({"src": torch.zeros(4, 1).long()}, r"src has shape \(4, 1\); give 1 dimensions"),
        ({"dst": torch.zeros(4).long()}, r"dst has shape \(4,\); give 2 dimensions"),
        ({"dst": torch.zeros(4, 2)}, "dst is torch.float32; give int32 or int64"),
        ({"newer_events": 200}, "newer_events is 200; give a number from 0 to 199"),
        ({"newer_events": 3}, "newer_events is 3 beside newer_pairs 0; newer events have pairs of their own"),
        ({"newer_pairs": -1}, "newer_pairs is -1; give a number from 0 to"),
        ({"dtype": torch.float16}, "dtype must be torch.float32 or torch.float64, not torch.float16"),
        ({"src": torch.zeros(4, device="meta").long()}, "src is on meta, not on cpu"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    arguments = random_case(200, 4, 2).arguments()
    with pytest.raises(ValueError, match=f"^pair_features: {message}"):
        pair_features(**{**arguments, **change})


def test_debugging_finds_more_events_than_there_are() -> None:
    arguments = random_case(200, 4, 2).arguments()
    arguments["before"][1] = 201
    enable_debug()
    try:
        with pytest.raises(ValueError, match=r"pair_features: before holds 201, outside \[0, 201\)"):
            pair_features(**arguments)
    finally:
        enable_debug(False)
