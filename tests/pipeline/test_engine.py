"""The serial engine: order, times, and errors that end the run."""

from __future__ import annotations

from typing import Any

import pytest

from mspipe_triton.pipeline.engine import Stage, StageTimes, run_serial


def test_every_item_passes_all_stages_before_the_next_starts() -> None:
    log: list[tuple[str, int]] = []

    def stage(name: str) -> Stage:
        def run(item: int) -> int:
            log.append((name, item))
            return item + 10

        return Stage(name, run)

    times = StageTimes()
    assert list(run_serial([stage("a"), stage("b")], [1, 2], times)) == [21, 22]
    assert log == [("a", 1), ("b", 11), ("a", 2), ("b", 12)]
    assert times.iterations == 2


def test_stage_times_are_the_stages_own() -> None:
    passed: list[float] = []

    def passing(seconds: float) -> Stage:
        def run(item: int) -> int:
            passed.append(seconds)
            return item

        return Stage(str(seconds), run)

    times = StageTimes()
    for _ in run_serial([passing(2.0), passing(0.5)], range(3), times, lambda: sum(passed)):
        passed.append(100.0)  # what the caller does between iterations is nobody's stage
    assert times.per_iteration() == {"2.0": 2.0, "0.5": 0.5}


def test_an_error_ends_the_run_where_it_happened() -> None:
    def fail(item: int) -> Any:
        raise ZeroDivisionError(item)

    done: list[int] = []
    with pytest.raises(ZeroDivisionError, match="7"):
        done.extend(run_serial([Stage("fail", fail)], [7, 8], StageTimes()))
    assert done == []
