"""Ranks at unlike speeds: the same bits as without delays, and no deadlock."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mspipe_triton.pipeline.schedules import stage_names
from tests.distributed.cases import MODELS, UNPAIRED, Case, Delays, Outcome, in_ranks
from tests.distributed.streams import hub
from tests.processes.pool import Pool

WORLD = 3
STAGES = stage_names("exact", shared=True)
SCHEDULES = {name: {"schedule": name} for name in ("serial", "prefetch", "exact", "mspipe")}
SCHEDULES["fixed"] = {"schedule": "fixed", "staleness": 2}
QUICK, SLOW = dict.fromkeys(STAGES, 0.0005), dict.fromkeys(STAGES, 0.005)


def case(model: str, schedule: str) -> Case:
    settings = UNPAIRED if model == "tgn" else MODELS[model]
    return Case(hub(200), settings, SCHEDULES[schedule], size=20)


def in_all(processes: Pool, cases: list[Case]) -> list[Outcome]:
    """Carry out cases, and return the outcomes of the first rank, to which all others must be equal."""
    by_rank = processes(WORLD, in_ranks, cases)
    for outcomes in zip(*by_rank, strict=True):
        assert {outcome.digest for outcome in outcomes} == {outcomes[0].digest}
        assert all(max(map(int, outcome.staleness)) <= outcome.planned for outcome in outcomes)
    return by_rank[0]


@functools.cache
def undisturbed(processes: Pool, model: str, schedule: str) -> Outcome:
    return in_all(processes, [case(model, schedule)])[0]


@pytest.mark.parametrize(
    ("model", "schedule"),
    [
        *(("tgn", schedule) for schedule in SCHEDULES),
        pytest.param("apan mean", "exact", marks=pytest.mark.slow),
        pytest.param("tgn of two layers", "exact", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_is_ten_times_slower(processes: Pool, model: str, schedule: str) -> None:
    plain = case(model, schedule)
    slow = [replace(plain, delays={rank: SLOW if rank == last else QUICK for rank in range(WORLD)}) for last in (0, 2)]
    for outcome in in_all(processes, slow):
        if schedule != "mspipe":  # it reads what has been written so far
            assert outcome.digest == undisturbed(processes, model, schedule).digest


@pytest.mark.parametrize("model", ["tgn", pytest.param("apan", marks=pytest.mark.slow)])
@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.generate],  # shrinking would not work, since no run repeats another's timing
)  # fmt: skip
@given(
    delays=st.fixed_dictionaries(
        {
            rank: st.fixed_dictionaries(dict.fromkeys(STAGES, st.sampled_from([0.0, 0.0, 0.001, 0.003, 0.006])))
            for rank in range(WORLD)
        }
    )
)
def test_any_delays_give_the_same_bits(processes: Pool, model: str, delays: dict[int, Delays]) -> None:
    expected = undisturbed(processes, model, "serial")
    exact, fixed = (replace(case(model, schedule), delays=delays) for schedule in ("exact", "fixed"))
    ours, stale = in_all(processes, [exact, fixed])
    assert ours.digest == expected.digest
    assert stale.digest == undisturbed(processes, model, "fixed").digest
