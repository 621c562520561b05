"""historical_negatives, by reference and by kernel in the interpreter, against a loop over all events; frequencies and
the estimate of a softmax over all destinations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mspipe_triton.kernels import enable_debug, historical_negatives
from mspipe_triton.kernels.runtime import launch
from mspipe_triton.kernels.sampling.historical_negatives import historical_kernel
from tests.kernels.comparing import Agree, Derived
from tests.kernels.sampling.graph_case import WAITING, launches_of, operations_of
from tests.kernels.sampling.history_case import (
    Event,
    Query,
    destinations_of,
    expected_draws,
    history,
    inputs,
    plain,
    random_queries,
    random_stream,
)

both = pytest.mark.usefixtures("backend", "poisoned")
ROWS = 20_000  # repetitions of a query whose draws are counted
SURE = math.log(1e9)  # bounds below fail once in 10⁹ seeds


@pytest.fixture
def check(agree: Agree) -> Any:
    """Compare a call with the oracle, and see that it changes no input."""

    def compare(events: list[Event], queries: list[Query], historical: int, number: int, **types: torch.dtype) -> None:
        arguments = inputs(events, queries, historical, number, **types)
        before = {name: value.clone() for name, value in arguments.items() if isinstance(value, torch.Tensor)}
        negatives, log_weights = historical_negatives(**arguments)
        rows, weights = plain(events, queries, historical)
        assert negatives.dtype == torch.int64
        assert negatives.shape == (len(queries), number)
        assert negatives.tolist() == rows
        expected = torch.tensor(weights, dtype=torch.float64).view(-1, number)
        agree({"log_weights": log_weights}, {"log_weights": expected})
        assert all(torch.equal(arguments[name], value) for name, value in before.items()), "an input was mutated"

    return compare


@pytest.mark.sample(2)
@both
@pytest.mark.parametrize("size", [0, 1, 9, 17, 123])
def test_sizes(size: int, check: Any) -> None:
    events = random_stream()
    check(events, random_queries(events, size, 5), 2, 5)


@pytest.mark.sample(2)
@both
@pytest.mark.parametrize(("historical", "number"), [(0, 3), (1, 1), (3, 3), (1, 4), (16, 33)])
def test_numbers_of_negatives(historical: int, number: int, check: Any) -> None:
    events = random_stream()
    check(events, random_queries(events, 15, number), historical, number)


def test_the_queries_cover_every_case() -> None:
    events = random_stream()
    queries = random_queries(events, 123, 5)
    histories = [history(events, query) for query in queries]
    rows, _ = plain(events, queries, 2)
    real = [query.src >= 0 for query in queries]
    met = [
        any(src == query.src and dst == query.dst and time < query.time for src, dst, time in events)
        for query in queries
    ]
    stayed = [
        row[3:] != query.negatives[3:] and any(node not in nodes for node in row[3:])
        for row, query, nodes in zip(rows, queries, histories, strict=True)
    ]
    assert len(set(events)) < len(events), "an event repeats a pair at the same time"
    assert len({time for _, _, time in events}) < len(events)
    assert any(query.src == 1000 for query in queries)
    assert not all(real)
    assert {bool(nodes) for nodes, each in zip(histories, real, strict=True) if each} == {True, False}
    assert {each for each, nodes in zip(met, histories, strict=True) if nodes} == {True, False}
    assert any(stayed), "a random negative stays because the drawn node is met now"


@pytest.mark.sample(2)
@both
@pytest.mark.parametrize("times", [torch.int64, torch.float64])
@pytest.mark.parametrize("index", [torch.int64, torch.int32])
def test_types(times: torch.dtype, index: torch.dtype, check: Any) -> None:
    events = random_stream()
    if times == torch.float64:
        events = [(src, dst, (time - events[0][2]) * 0.1 + 1e9) for src, dst, time in events]
    check(events, random_queries(events, 20, 4), 3, 4, times=times, index=index)


@both
def test_a_stream_of_one_event(check: Any) -> None:
    events = [(7, 8, 5)]
    queries = [Query(7, 8, 5, [9]), Query(7, 9, 6, [3]), Query(7, 8, 6, [3]), Query(3, 8, 6, [9])]
    arguments = inputs(events, queries, 1, 1) | {"destinations": 2}
    negatives, log_weights = historical_negatives(**arguments)
    assert negatives.tolist() == [[9], [8], [3], [9]]
    assert log_weights.tolist() == [[0], [0], [0], [0]]


@both
def test_a_random_negative_has_a_finite_weight_if_all_are_historical() -> None:
    """The source met 8 before, and meets it now, so the random negative stays."""
    events = [(7, 8, 5), (7, 8, 6), (7, 9, 6), (1, 10, 7)]
    arguments = inputs(events, [Query(7, 9, 6, [10])], 1, 1)
    negatives, log_weights = historical_negatives(**arguments)
    assert negatives.tolist() == [[10]]
    assert log_weights.item() == pytest.approx(math.log(2))


@both
def test_numbers_and_not_times_say_what_is_before() -> None:
    """The first event is at the query's time and numbered below `before`, so it is earlier and not now."""
    arguments = inputs([(7, 8, 5)], [Query(7, 9, 5, [3])], 1, 1) | {"destinations": 2, "before": torch.tensor([1])}
    assert historical_negatives(**arguments)[0].tolist() == [[8]]


@both
def test_the_event_s_destination_weighs_as_if_it_was_not_met() -> None:
    events = [(7, 8, 5), (7, 9, 5), (1, 10, 5)]
    arguments = inputs(events, [Query(7, 8, 6, [8, 9, 10, 10])], 1, 4)
    negatives, log_weights = historical_negatives(**arguments)
    assert negatives.tolist() == [[8, 9, 10, 9]]
    assert log_weights.exp().tolist()[0] == pytest.approx([2 / 3, 2 / 5, 2 / 3, 2 / 5])


@both
def test_rows_of_negatives_may_be_apart() -> None:
    events = random_stream()
    arguments = inputs(events, random_queries(events, 9, 4), 2, 4)
    wide = torch.full((9, 7), -5)
    wide[:, :4] = arguments["negatives"]
    apart = historical_negatives(**arguments | {"negatives": wide[:, :4]})
    assert all(torch.equal(*pair) for pair in zip(apart, historical_negatives(**arguments), strict=True))


@both
@pytest.mark.parametrize("config", historical_kernel.configs["float32"], ids=str)
def test_every_configuration_in_float32(
    config: launch.Config, monkeypatch: pytest.MonkeyPatch, derived: Derived
) -> None:
    monkeypatch.setitem(historical_kernel.chosen, "float32", config)
    events = random_stream()
    arguments = inputs(events, random_queries(events, 33, 5), 2, 5)

    def run() -> dict[str, torch.Tensor]:
        return dict(zip(("negatives", "log_weights"), historical_negatives.reference(**arguments), strict=True))

    actual = historical_negatives(**arguments | {"dtype": torch.float32})
    assert actual[1].dtype == torch.float32
    named = dict(zip(("negatives", "log_weights"), actual, strict=True))
    derived(named, named, run)


def repeated(query: Query, events: list[Event], historical: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Negatives and log weights [ROWS, K] of one query, drawn anew in every row."""
    others = torch.tensor([node for node in destinations_of(events) if node != query.dst])
    random = torch.Generator().manual_seed(0)
    choice = torch.randint(0, others.numel(), (ROWS, number), generator=random)
    arguments = inputs(events, [query], historical, number)
    per_row = ("src", "dst", "query_times", "before")
    arguments |= {name: arguments[name].expand(ROWS).contiguous() for name in per_row}
    return historical_negatives(**arguments | {"negatives": others[choice]})


def counted() -> tuple[list[Event], Query]:
    """Make a stream of 14 destinations, and a query whose source met 6 of them before, its dst too, and none now."""
    events = [(1, dst, dst % 5) for dst in (20, 25, 31, 22, 20, 27, 33)]
    events += [(2, dst, 5) for dst in range(20, 34)] + [(1, 26, 8)]
    return sorted(events, key=lambda event: event[2]), Query(1, 25, 7, [20] * 4)


@pytest.mark.parametrize("historical", [0, 2, 4])
def test_nodes_are_drawn_as_often_as_expected(historical: int) -> None:
    """Pearson's statistic of all draws. A row's draws have two distributions, and so a covariance of at most that of
    draws from their mean; for these the statistic is a χ² of f = 12 degrees, which exceeds f + 2√(fx) + 2x with
    probability e⁻ˣ at most (Laurent and Massart 2000)."""
    events, query = counted()
    assert len(history(events, query)) == 5
    negatives, _ = repeated(query, events, historical, 4)
    nodes = [node for node in destinations_of(events) if node != query.dst]
    counts = {node: int((negatives == node).sum()) for node in nodes}
    assert sum(counts.values()) == ROWS * 4
    means = {node: ROWS * expected_draws(events, query, historical, node) for node in nodes}
    assert sum(means.values()) == pytest.approx(ROWS * 4)
    possible = [node for node in nodes if means[node] > 0]
    assert all(counts[node] == 0 for node in set(nodes) - set(possible))
    freedom = len(possible) - 1
    limit = freedom + 2 * math.sqrt(freedom * SURE) + 2 * SURE
    assert sum((counts[node] - means[node]) ** 2 / means[node] for node in possible) < limit
    uniform = ROWS * 4 / len(nodes)
    assert (sum((counts[node] - uniform) ** 2 / uniform for node in nodes) > limit) == (historical > 0)


@pytest.mark.parametrize(("historical", "src"), [(0, 1), (2, 1), (3, 1), (2, 9)])
def test_the_weighted_sum_estimates_the_sum_over_all_destinations(historical: int, src: int) -> None:
    """Hoeffding's bound on the mean of ROWS sums of K independent terms, each from 0 to the largest weighted one."""
    events, query = counted()
    query = Query(src, query.dst, query.time, query.negatives)
    nodes = [node for node in destinations_of(events) if node != query.dst]
    scores = torch.zeros(40, dtype=torch.float64)
    scores[nodes] = torch.linspace(-1, 1, len(nodes), dtype=torch.float64)
    scores[[20, 22, 31]] += 1  # nodes that source 1 met before score higher
    negatives, log_weights = repeated(query, events, historical, 4)
    mean = float((scores[negatives] + log_weights).exp().sum(1).mean())
    truth = float(scores[nodes].exp().sum())
    largest = max(math.exp(scores[node]) / expected_draws(events, query, historical, node) for node in nodes)
    bound = largest * math.sqrt(4 * (SURE + math.log(2)) / (2 * ROWS))
    assert abs(mean - truth) < bound
    plain_mean = float(scores[negatives].exp().sum(1).mean()) * len(nodes) / 4
    assert (abs(plain_mean - truth) > bound) == (historical > 0 and src == 1), "without the weights the sum is wrong"


def test_one_launch_and_no_wait() -> None:
    events = random_stream()
    arguments = inputs(events, random_queries(events, 9, 4), 2, 4)
    assert launches_of(lambda: historical_negatives.launch(**arguments)) == (["historical_kernel"], {"new_empty"})
    assert not operations_of(lambda: historical_negatives.reference(**arguments)) & WAITING


@pytest.mark.parametrize("historical", [0, 2])
def test_the_operation_passes_opcheck_and_compiles_as_one_graph(historical: int) -> None:
    events = random_stream()
    arguments = inputs(events, random_queries(events, 9, 4), historical, 4)
    torch.library.opcheck(torch.ops.mspipe_triton.historical_negatives.default, tuple(arguments.values()))
    compiled = torch.compile(historical_negatives, fullgraph=True, backend="aot_eager")(**arguments)
    assert all(torch.equal(*pair) for pair in zip(compiled, historical_negatives(**arguments), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meeting_keys": torch.zeros(3)}, "meeting_keys is torch.float32; give int64"),
        ({"meeting_keys": torch.zeros(3).long()}, r"meeting_keys has shape \(3,\); give"),
        ({"pairs": torch.zeros(3, 1).long()}, r"pairs has shape \(3, 1\); give 1 dimensions"),
        ({"pair_keys": torch.zeros(3).long()}, r"pair_keys has shape \(3,\); give \(150,\)"),
        ({"event_dst": torch.zeros(150)}, "event_dst is torch.float32; give int32 or int64"),
        ({"times": torch.zeros(150)}, "times is torch.float32; give int64 or float64"),
        ({"query_times": torch.zeros(9).double()}, "query_times is torch.float64 beside times in torch.int64"),
        ({"times": torch.zeros(0).long()}, r"times has shape \(0,\); give at least one event"),
        ({"dst": torch.zeros(4).long()}, r"dst has shape \(4,\); give \(9,\)"),
        ({"before": torch.zeros(9).int()}, "before is torch.int32; give int64"),
        ({"negatives": torch.zeros(9).long()}, r"negatives has shape \(9,\); give 2 dimensions"),
        ({"negatives": torch.zeros(8, 4).long()}, r"negatives has shape \(8, 4\); give \(9, 4\)"),
        ({"negatives": torch.zeros(4, 9).long().t()}, r"negatives \(9, 4\) has strides \(1, 9\); its last must be 1"),
        ({"draws": torch.zeros(3).long()}, r"draws has shape \(3,\); give \(4,\)"),
        ({"historical": 5}, "historical must be an integer from 0 to 4, the negatives of a query, not 5"),
        ({"historical": -1}, "historical must be an integer from 0 to 4, the negatives of a query, not -1"),
        ({"destinations": 1}, "destinations must be an integer of at least 2, not 1"),
        ({"dtype": torch.bfloat16}, "dtype must be torch.float32 or torch.float64, not torch.bfloat16"),
        ({"src": torch.zeros(9, device="meta").long()}, "meeting_keys is on cpu, not on meta"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    events = random_stream()
    with pytest.raises(ValueError, match=f"^historical_negatives: {message}"):
        historical_negatives(**inputs(events, random_queries(events, 9, 4), 2, 4) | change)


@pytest.mark.parametrize("name", ["meeting_keys", "pairs", "pair_keys"])
def test_debugging_finds_keys_out_of_order(name: str) -> None:
    events = random_stream()
    arguments = inputs(events, random_queries(events, 9, 4), 2, 4)
    enable_debug()
    try:
        historical_negatives(**arguments)
        with pytest.raises(ValueError, match=rf"{name} are not in ascending order; give {name}.sort\(\).values"):
            historical_negatives(**arguments | {name: arguments[name].flip(0)})
        with pytest.raises(ValueError, match=r"before holds 151, outside \[0, 151\)"):
            historical_negatives(**arguments | {"before": arguments["before"] * 0 + 151})
    finally:
        enable_debug(False)
