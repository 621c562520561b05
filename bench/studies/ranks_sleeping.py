"""The engine on 1, 2 and 4 ranks whose stages sleep and whose exchanges are real, beside its plan."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.report import command, header, show
from bench.studies.groups import Groups, in_processes
from bench.studies.pipeline_period import Sleep
from mspipe_triton.distributed.ranks import Gathering, Ranks
from mspipe_triton.pipeline.engine import Engine, run_serial
from mspipe_triton.pipeline.flight import Span
from mspipe_triton.pipeline.online import guarded
from mspipe_triton.pipeline.plan import Plan, make_plan
from mspipe_triton.pipeline.schedules import stage_names
from mspipe_triton.pipeline.slow_link import staleness_gain

RANKS = (1, 2, 4)
# Events of a batch, its distinct ends on wiki.csv, the width of their memory, and the parameters of TGN.
BATCH, ENDS, DIM, PARAMETERS = 14_400, 2510, 100, 225_000
# Milliseconds on a whole batch. A share takes its part of them; each rank composes and writes the rows of all ends.
SHARED = {"sample": 120.0, "features": 48.0, "memory": 48.0, "patch": 24.0, "forward": 240.0, "backward": 480.0}
COMPOSE, UPDATE = 5.5, 5.5
WARMUP = 4
EXCHANGES = 20  # measured apart from the engine
TARGETS = {"speed": 3.5, "within": 0.1}
Facts = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A schedule, its staleness if the plan does not choose it, and milliseconds that a link adds to the exchange."""

    schedule: str
    staleness: int | None = None
    link: float = 0.0


CASES = (Case("serial"), Case("prefetch"), Case("exact"), Case("fixed", 1))
# A link so slow that the exchange outlasts the backward pass of a share: the first case waits for it, the second not.
SLOW_RANKS, LINK = 4, 174.0
SLOW = (Case("exact", link=LINK), Case("mspipe", link=LINK))


def main(
    iterations: Annotated[int, typer.Option(help="Iterations per run, with those that warm up.")] = 12,
    repeats: Annotated[int, typer.Option(help="Runs of each case and number of ranks, in turn.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Measure on processes of this machine; a sleep takes no core, so two cores are enough for four of them."""
    torch.set_num_threads(1)
    rows = in_processes(work, max(RANKS), RANKS, CASES, iterations, repeats)[0]
    settings = {
        "batch": BATCH, "ends": ENDS, "dim": DIM, "parameters": PARAMETERS, "shared_ms": SHARED, "compose_ms": COMPOSE,
        "update_ms": UPDATE, "slow_ranks": SLOW_RANKS, "link_ms": LINK, "iterations": iterations, "warmup": WARMUP,
        "repeats": repeats, "targets": TARGETS,
    }  # fmt: skip
    show({**header(command("bench.studies.ranks_sleeping")), **settings, **summary(rows)}, out)


def work(groups: Groups, counts: Sequence[int], cases: Sequence[Case], iterations: int, repeats: int) -> list[Facts]:
    """Run cases on each number of ranks, in turn; return a row for each run that this process took part in."""
    rows: list[Facts] = []
    for _ in range(repeats):
        for count in counts:
            with groups.of(count) as ranks:
                if ranks is None:
                    continue
                stages = RankStages(ranks)
                for case in (*cases, *(SLOW if count == SLOW_RANKS else ())):
                    costs = stages.costs()  # right before the run, as other programs change them
                    facts = {"schedule": case.schedule, "slow": case.link > 0, "ranks": count, "costs_ms": costs}
                    rows.append({**facts, **run(stages, case, costs, iterations)})
    return rows


class RankStages:
    """The stages of a rank, which sleep for the times of its share, and exchange rows and gradients with the others.

    A run of one rank has the stages of one process, and exchanges nothing.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        rows = ranks.share(ENDS)
        loss, digested = torch.zeros(1, dtype=torch.float64), torch.zeros(rows, dtype=torch.int64)
        self.parts = [loss, digested, torch.zeros(rows, DIM)]
        self.gradients = [torch.zeros(PARAMETERS)]

    def costs(self) -> dict[str, float]:
        """Measure the exchanges apart from all stages, in rank 0: medians, in milliseconds.

        Returns:
            start: of the gathering's start; gather: from there to its end; reduce: of the sum of the gradients.
        """
        times: dict[str, list[float]] = {"start": [], "gather": [], "reduce": []}
        for _ in range(EXCHANGES if not self.ranks.alone else 0):
            self.ranks.any(False)  # all ranks begin at about the same time
            moments = [time.perf_counter()]
            gathering = self.ranks.gather(self.parts)
            moments.append(time.perf_counter())
            gathering.wait()
            moments.append(time.perf_counter())
            self.ranks.any(False)
            begin = time.perf_counter()
            self.ranks.reduce(self.gradients)
            times["reduce"].append(time.perf_counter() - begin)
            times["start"].append(moments[1] - moments[0])
            times["gather"].append(moments[2] - moments[1])
        return self.ranks.from_first(
            lambda: {name: statistics.median(each or [0.0]) * 1e3 for name, each in times.items()}
        )

    def sleeps(self, case: Case) -> dict[str, float]:
        """Return the milliseconds that each stage of a case sleeps."""
        share = self.ranks.share(BATCH) / BATCH
        times = {**{name: whole * share for name, whole in SHARED.items()}, "update": UPDATE}
        times["train"] = times["forward"] + times["backward"] + COMPOSE
        times["exchange"] = case.link + COMPOSE
        return {name: times[name] for name in stage_names(case.schedule, shared=not self.ranks.alone)}

    def functions(self, case: Case) -> dict[str, Callable[[Any], Any]]:
        """Return the stages by name."""
        work = {"forward": self._forward, "backward": self._backward, "exchange": Gathering.wait}
        sleeps = self.sleeps(case).items()
        return {name: _stage(Sleep(milliseconds / 1e3), work.get(name, _pass)) for name, milliseconds in sleeps}

    def _forward(self, _: Any) -> Gathering:
        return self.ranks.gather(self.parts)

    def _backward(self, gathering: Gathering) -> Gathering:
        self.ranks.reduce(self.gradients)
        return gathering


def _stage(sleep: Sleep, work: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def run(item: Any) -> Any:
        sleep()
        return work(item)

    return run


def _pass(item: Any) -> Any:
    return item


def planned(sleeps: Mapping[str, float], costs: Mapping[str, float], case: Case) -> Plan:
    """Plan a case for sleeps and exchanges of so many milliseconds, in seconds."""
    times = dict(sleeps)
    if "exchange" in times:
        times["forward"] += costs["start"]
        times["exchange"] += costs["gather"]
        times["backward"] += costs["reduce"]
    return make_plan(case.schedule, {name: each / 1e3 for name, each in times.items()}, case.staleness)


def run(stages: RankStages, case: Case, costs: Mapping[str, float], iterations: int) -> Facts:
    """Run a case; return its planned and measured period in milliseconds, its staleness, and what more would gain."""
    plan, functions, spans = planned(stages.sleeps(case), costs, case), stages.functions(case), list[Span]()
    if case.schedule == "serial":
        results = run_serial(plan.graph, functions, range(iterations), spans.extend)
    else:
        results = Engine(plan.graph, functions, guarded(plan), observe=spans.extend).run(range(iterations))
    assert len(list(results)) == iterations
    ends = [span.end for span in spans if span.stage == "update"]
    period = (ends[-1] - ends[WARMUP]) / (iterations - 1 - WARMUP)
    gain = staleness_gain(plan)
    return {
        "planned_ms": float(plan.period) * 1e3, "measured_ms": period * 1e3, "staleness": plan.staleness,
        "gain": 1.0 if gain is None else float(gain.before / gain.period),
    }  # fmt: skip


def summary(rows: Sequence[Facts]) -> Facts:
    """Return medians of each schedule by number of ranks, and the gain of staleness on a slow link.

    A speed is relative to the run on one rank, or under the schedule that waits, in the same turn. Each plan has the
    exchanges that were measured right before its run.
    """
    runs: dict[tuple[str, bool, int], list[Facts]] = {}
    for row in rows:
        runs.setdefault((row["schedule"], row["slow"], row["ranks"]), []).append(row)
    cases: dict[str, Facts] = {}
    for (schedule, slow, count), same in runs.items():
        if not slow:
            cases.setdefault(schedule, {})[str(count)] = _medians(same, runs[schedule, False, 1])
    waiting, free = (case.schedule for case in SLOW)
    slow_link = {
        schedule: _medians(same, runs[waiting, True, count])
        for (schedule, slow, count), same in runs.items() if slow
    }  # fmt: skip
    gain = {"planner": slow_link[waiting]["gain"], "measured": slow_link[free]["speed"]} if slow_link else {}
    counts = sorted({row["ranks"] for row in rows})
    every = [*(case for counted in cases.values() for case in counted.values()), *slow_link.values()]
    return {
        "costs_ms": {
            str(count): {
                name: statistics.median(row["costs_ms"][name] for row in rows if row["ranks"] == count)
                for name in rows[0]["costs_ms"]
            }
            for count in counts
        },
        "cases": cases,
        "slow_link": slow_link,
        "gain": gain,
        "least_ratio": min(case["measured_over_planned"] for case in every),
        "largest_ratio": max(case["measured_over_planned"] for case in every),
        "least_speed": {str(count): min(case[str(count)]["speed"] for case in cases.values()) for count in counts},
    }


def _medians(runs: Sequence[Facts], others: Sequence[Facts]) -> Facts:
    """Return medians over runs, and over their speeds relative to the other run of each turn."""

    def speed(key: str) -> float:
        return statistics.median(other[key] / each[key] for each, other in zip(runs, others, strict=True))

    planned, measured = (statistics.median(each[key] for each in runs) for key in ("planned_ms", "measured_ms"))
    return {
        "planned_ms": planned, "measured_ms": measured, "measured_over_planned": measured / planned,
        "planned_speed": speed("planned_ms"), "speed": speed("measured_ms"),
        "staleness": max(each["staleness"] for each in runs),
        "gain": statistics.median(each["gain"] for each in runs),
    }  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
