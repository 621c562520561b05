"""The model of N ranks: links, fits, plans and their obstacles against plain computation, and a small measurement."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
import torch

from bench.studies import ranks_scaling
from bench.studies.ranks_model import (
    GROWS,
    LINKS,
    PARTS,
    STAGES,
    Cost,
    Link,
    Workload,
    fit_cost,
    last_worthwhile,
    message,
    obstacle,
    plan_ranks,
    stage_times,
)
from bench.studies.ranks_paper import Sizes, bytes_of, on_paper
from mspipe_triton.config import RunConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream

SLOW = Link(1e6, 1e-3)


def ring_gather(parts: list[list[float]], link: Link) -> float:
    """Send the parts around a ring, a step at a time, until every rank has all; all send at the same time."""
    count, seconds = len(parts), 0.0
    having = [{rank} for rank in range(count)]
    last = list(range(count))  # the part that each rank sends next
    while any(len(each) < count for each in having):
        seconds += link.latency + max(sum(parts[part]) for part in last) / link.bandwidth
        last = [last[(rank - 1) % count] for rank in range(count)]
        for rank in range(count):
            having[rank].add(last[rank])
    return seconds


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_collectives_take_the_time_of_a_ring(ranks: int) -> None:
    gather = ring_gather([[500.0, 250.0]] * ranks, SLOW)
    assert SLOW.gather(750 * ranks, ranks) == pytest.approx(gather)
    # A reduction sends every N-th part around once to add it up and once more to share it.
    assert SLOW.reduce(6000, ranks) == pytest.approx(2 * ring_gather([[6000 / ranks]] * ranks, SLOW))
    tree = Link(1e6, 1e-3, tree=True)
    steps = len(bin(ranks - 1)) - 2 if ranks > 1 else 0
    assert tree.gather(0, ranks) == pytest.approx(steps * 1e-3)
    assert tree.gather(1e9, ranks) - SLOW.gather(1e9, ranks) == pytest.approx((steps - ranks + 1) * 1e-3)


def test_links_have_their_stated_bandwidths() -> None:
    assert {name: link.bandwidth * 8 / 1e9 for name, link in LINKS.items()} == {
        "NVLink": 3600, "400 Gb/s": 400, "25 Gb/s": 25,
    }  # fmt: skip


def test_messages_are_counted_as_the_ranks_build_them() -> None:
    for rows, dim in ((1, 3), (7, 5), (40, 100)):
        ranks = ranks_scaling.OneOfMany(count=6)
        parts = [torch.zeros(1, dtype=torch.float64), torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, dim)]
        gathering = ranks.gather(parts)
        assert ranks.traffic.gathered == 6 * message(rows, dim) == Workload(60, 6, 9, rows, dim, 0).gathered
        assert [each.shape[0] for each in gathering.wait()] == [6, 6, 6]


SIZES = [(b / n, b, e) for b, e in ((600, 290), (600, 1190), (2400, 900), (9600, 2200)) for n in (1, 4, 16)]


def test_a_fit_finds_the_parts_of_a_cost() -> None:
    draw = random.Random(1)
    for fixed, share, batch in ((3e-3, 2e-5, 4e-6), (0.0, 1e-5, 0.0), (1e-3, 0.0, 2e-6), (2e-3, 0.0, 0.0)):
        samples = [(c, b, e, fixed + share * c + batch * b) for c, b, e in SIZES]
        cost, error = fit_cost("sample", samples)
        assert error < 1e-9
        assert (cost.fixed, cost.share, cost.batch, cost.ends) == pytest.approx((fixed, share, batch, 0), abs=1e-12)
        noisy = [(*sizes, seconds * draw.uniform(0.9, 1.1)) for *sizes, seconds in samples]
        cost, error = fit_cost("sample", noisy)
        assert min(cost.fixed, cost.share, cost.batch) >= 0
        assert 0 < error < 0.3
        assert error == pytest.approx(max(abs(cost.seconds(*sizes) / seconds - 1) for *sizes, seconds in noisy))


def test_stages_cost_only_what_they_work_on() -> None:
    samples = [(c, b, e, 1e-3 + 1e-5 * c + 1e-6 * b + 1e-6 * e) for c, b, e in SIZES]
    for stage in STAGES:
        cost = fit_cost(stage, samples)[0]
        grows = {name for name in ("share", "batch", "ends") if getattr(cost, name)}
        assert grows <= set(GROWS[stage])
        if stage in ("memory", "forward", "backward"):
            assert grows == {"share"}  # a network sees no more than the share
        if stage in ("exchange", "update"):
            assert "share" not in grows


COSTS = {name: Cost(1e-3, 1e-5, 4e-7, 6e-7) if name in ("exchange", "update") else Cost(1e-3, 1e-5) for name in STAGES}


def test_stage_times_scale_by_share_and_batch_and_add_the_network() -> None:
    work = Workload(1000, 3, ends=1000, rows=200, dim=10, gradients=30_000)
    assert work.share == 334
    times = {name: float(time) for name, time in stage_times(COSTS, work, SLOW, speed=2).items()}
    assert times["sample"] == times["forward"] == pytest.approx((1e-3 + 334e-5) / 2)
    assert times["update"] == pytest.approx((1e-3 + 334e-5 + 1e-3) / 2)
    assert times["backward"] == pytest.approx((1e-3 + 334e-5) / 2 + 2 * (2 / 3 * 0.03 + 2e-3), abs=1e-8)
    gathered = 3 * (8 + 200 * 8 + 200 * 40)
    assert times["exchange"] == pytest.approx((1e-3 + 334e-5 + 1e-3) / 2 + 2 / 3 * gathered / 1e6 + 2e-3, abs=1e-8)
    without = {part: {n: float(t) for n, t in stage_times(COSTS, work, SLOW, 2, part).items()} for part in PARTS}
    assert without["fixed"]["update"] == pytest.approx((334e-5 + 1e-3) / 2)
    assert without["whole"]["update"] == pytest.approx((1e-3 + 334e-5) / 2)
    assert without["link"]["exchange"] == pytest.approx(times["update"])


def test_the_plan_of_ranks_is_the_busiest_resource_or_the_way_through_the_exchange() -> None:
    for ranks in (1, 4, 64):
        work = Workload(6400, ranks, ends=5000, rows=6000 / ranks, dim=100, gradients=400_000)
        for link in (SLOW, LINKS["NVLink"]):
            times = stage_times(COSTS, work, link)
            compute = times["patch"] + times["forward"] + times["backward"]
            copies = times["features"] + times["memory"]
            hold = times["patch"] + times["forward"] + times["exchange"]
            plan = plan_ranks(COSTS, work, link)
            assert plan.period == max(compute, copies, times["sample"], times["update"], times["exchange"], hold)
            assert isinstance(plan.period, Fraction)


def test_obstacles_and_the_last_doubling_that_pays() -> None:
    work = Workload(6400, 64, ends=5000, rows=100, dim=100, gradients=4)
    idle = dict.fromkeys(STAGES, Cost(1e-6, 1e-6))
    assert obstacle({**idle, "update": Cost(batch=1e-5)}, work, LINKS["NVLink"]) == "whole"
    assert obstacle({**idle, "forward": Cost(1e-1)}, work, LINKS["NVLink"]) == "fixed"
    assert obstacle(idle, work, SLOW) == "link"
    assert last_worthwhile([(1, 100), (2, 190), (4, 300), (8, 329), (16, 700)]) == 4
    assert last_worthwhile([(1, 100), (2, 200)]) == 2


def test_the_large_stream_is_counted_byte_by_byte() -> None:
    sizes, config = Sizes(nodes=1000, events=5000, edge=3), RunConfig()
    parts = bytes_of(sizes, config)
    node = 100 * 4 + 100 * 4 + 3 * 8  # memory, the partner's row; times of both, event id
    assert parts == {
        "state": 1000 * node, "graph": 8 * 1001 + 2 * 5000 * (4 + 4 + 8), "events": 24 * 5000, "features": 4 * 3 * 5000,
    }  # fmt: skip
    large = bytes_of(Sizes(), config)
    assert large["graph"] == 8 * (10**9 + 1) + 2 * 10**11 * (4 + 8 + 8)
    facts = on_paper(config, LINKS, distinct=2.5, rate=1e6)
    assert facts["record_bytes"] == node
    assert facts["gpus_for_state"] == math.ceil(node * 1e9 * 1.1 / (139 * 2**30))
    assert facts["million_nodes_per_gpu"] == pytest.approx(139 * 2**30 / 1.1 / node / 1e6)
    for row in facts["sharded"]:
        hosts = row["hosts"]
        away = 1 - 1 / hosts
        assert row["rows_per_batch"] == pytest.approx({"most": 38_400 * 33 * away, "measured": 38_400 * 2.5 * away})
        seconds = 10**11 * 2.5 * away * node / hosts / 50e9
        assert row["epoch_hours"]["400 Gb/s"]["measured"] == pytest.approx(seconds / 3600)
        assert row["nvme_hours"]["most"] == pytest.approx(33e11 / 1e6 / hosts / 3600)
        assert row["compute_hours"] == pytest.approx(1e11 / 1e6 / hosts / 3600)
        assert row["fits"] == ((large["state"] + large["graph"] + large["events"]) / hosts <= 2**40)


@pytest.fixture(scope="module")
def stream() -> EventStream:
    return synthetic_stream(SyntheticConfig(events=3000))


def test_rows_are_those_of_the_rank_that_sends_most(stream: EventStream) -> None:
    facts = ranks_scaling.rows_sent(stream, 200, 1, samples=3)
    ends = [
        len({*stream.src[start : start + 200].tolist(), *stream.dst[start : start + 200].tolist()})
        for start in (0, 1000, 2000)
    ]
    assert facts == {"ends": sum(ends) / 3, "rows": sum(ends) / 3}
    shared = ranks_scaling.rows_sent(stream, 200, 4, samples=3)
    assert shared["ends"] / 4 <= shared["rows"] < shared["ends"] / 2


RANDOM = (("RANDOM_NODES", 500), ("RANDOM_EVENTS", 2000), ("RANDOM", ((100, 4),)))


@pytest.mark.slow
def test_a_rank_among_stand_ins_runs_every_stage_and_the_study_plans_from_it(
    stream: EventStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("BATCHES", (50, 200)), ("SHARES", (1, 4)), ("PLANNED", (200,)), ("_ITERATIONS", 60), *RANDOM):
        monkeypatch.setattr(ranks_scaling, name, value)
    notes = list[str]()
    report = ranks_scaling.study(stream, 3, notes.append)
    assert len(notes) == len(report["samples"]) == 5
    assert [sample["random"] for sample in report["samples"]] == [False] * 4 + [True]
    for sample in report["samples"]:
        assert sample["share"] == math.ceil(sample["batch"] / sample["ranks"])
        assert list(sample["seconds"]) == list(STAGES)
        assert min(sample["seconds"].values()) > 0
        assert 0 < sample["nodes"] < max(500, stream.num_nodes)
        assert 0 < sample["ends"] <= 2 * sample["batch"]
    assert len(report["scalings"]) == len(LINKS) * sum(map(len, ranks_scaling.CASES.values()))
    assert report["simulation_difference"] < 0.02
    distinct = report["scalings"][-1]
    assert (distinct["ends"], distinct["points"][3]["gathered_bytes"]) == ("distinct", 8 * message(2 * 25, 100))
    for scaling in report["scalings"]:
        rates = {point["ranks"]: point["events_per_s"] for point in scaling["points"]}
        assert list(rates) == list(ranks_scaling.RANKS)
        assert scaling["speedup"] == rates[scaling["stops_at"]] / rates[1]
        assert scaling["because"] in PARTS
        pays = [point["ranks"] for point in scaling["points"] if point["staleness_gain"] >= 1.05]
        assert scaling["staleness_pays_from"] == (pays[0] if pays else None)
