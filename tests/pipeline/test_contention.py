"""Contention: the number of threads by readings of a scripted machine, and the lines that a run prints."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from mspipe_triton.machine import Usage
from mspipe_triton.pipeline.contention import LONGEST, PATIENCE, UNSEEN, WINDOW, Contention
from tests.pipeline.scripted_machine import STEP, Machine, started


@pytest.fixture
def lines() -> list[str]:
    """The lines of a run."""
    return []


def test_a_free_machine_changes_nothing(lines: list[str]) -> None:
    machine = Machine(2, busy=0.1)
    run = started(machine, 2, note=lines.append)
    assert machine.steps(60) == []
    assert (run.threads, run.changed, run.crowded, lines) == (2, False, False, [])


def test_threads_go_at_the_first_reading_and_return_once_cores_have_been_free(lines: list[str]) -> None:
    machine = Machine(2)
    run = started(machine, 2, note=lines.append)
    machine.steps(3)
    machine.busy = 1
    (change,) = machine.steps(STEP)
    assert (change.old, change.new, change.others) == (2, 1, pytest.approx(2 / 3))
    assert change.to_json() == {"event": "threads", "threads": 1, "others": 0.67}
    assert run.crowded
    assert machine.steps(30) == []
    assert lines == ["Other processes use 1.0 of 2 cores: this run uses 1 thread, and 2 again when the cores are free."]
    machine.busy = 0
    assert machine.steps(PATIENCE - STEP) == []
    assert not run.crowded
    assert run.threads == 1
    machine.busy = 1  # free for too short a time
    assert machine.steps(STEP) == []
    machine.busy = 0
    assert machine.steps(PATIENCE - STEP) == []
    assert [change.new for change in machine.steps(STEP)] == [2]
    machine.steps(4.5)
    assert len(lines) == 1
    machine.steps(0.5)
    assert lines[1:] == ["The cores are free again: this run uses 2 threads."]


def test_the_first_iteration_has_the_number_of_threads_for_the_use_before_it() -> None:
    machine = Machine(2, busy=1)
    before = machine.usage(0)
    machine.step()
    run = machine.run(2, since=before)
    change = run.look()
    assert change is not None
    assert (change.new, change.others) == (1, pytest.approx(1.0))


def test_a_reading_needs_a_window() -> None:
    machine = Machine(2, busy=2)
    run = machine.run(2)
    machine.now += 0.9 * WINDOW
    assert run.look() is None
    assert run.last.time == 100.0


def test_a_slow_reading_takes_a_small_part_of_the_time() -> None:
    machine = Machine(2, reading=0.005)
    run = started(machine, 2)
    times = set()
    for _ in range(24):
        machine.step()
        times.add(run.last.time)
    assert all(1 <= later - earlier < 1 + 2 * STEP for earlier, later in pairwise(sorted(times)))
    assert len(times) >= 5


@pytest.mark.parametrize(
    ("cores", "busy", "threads"), [(16, 1, 15), (16, 4, 12), (16, 40, 1), (4, 1, 3), (2, 2, 1), (1, 1, 1)]
)
def test_a_run_takes_the_cores_that_others_leave(cores: int, busy: int, threads: int) -> None:
    machine = Machine(cores, busy=busy)
    run = started(machine, cores)
    machine.steps(20)
    assert run.threads == threads
    assert machine.steps(300) == []


@pytest.mark.parametrize(("cores", "each"), [(2, 1), (4, 2), (16, 8)])
def test_two_runs_share_the_cores_and_do_not_take_turns(cores: int, each: int) -> None:
    machine = Machine(cores)
    runs = [machine.run(cores), machine.run(cores)]
    machine.computes = True
    machine.step()
    assert [run.threads for run in runs] == [each, each]
    assert machine.steps(600) == []


def test_returning_too_early_again_and_again_takes_ever_longer() -> None:
    machine = Machine(2)
    run = started(machine, 2)
    times = []
    for _ in range(4800):
        machine.busy = int(run.threads == 2)  # another program that waits until cores are free
        machine.step()
        times += [machine.now] if run.threads == 2 and run.risen == machine.now else []
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert waits == sorted(waits)
    assert waits[:3] == pytest.approx([2 * PATIENCE, 4 * PATIENCE, 8 * PATIENCE], abs=4 * STEP)
    assert waits[-1] == pytest.approx(LONGEST, abs=4 * STEP)


def test_programs_of_lower_priority_cost_an_attempt_at_most() -> None:
    machine = Machine(2, nice=2)
    run = started(machine, 2)
    assert (run.threads, run.crowded) == (2, False)
    assert machine.steps(60) == []
    machine.nice, machine.busy = 0, 1
    machine.steps(STEP)
    machine.nice, machine.busy = 2, 0
    assert [change.new for change in machine.steps(PATIENCE + STEP)] == [2]
    assert machine.steps(60) == []


def test_own_children_use_cores_and_are_no_others(lines: list[str]) -> None:
    machine = Machine(2, children=1)
    run = started(machine, 2, note=lines.append)
    machine.steps(5)
    assert (run.threads, run.crowded, run.others, lines) == (1, False, pytest.approx(0), [])
    machine.children = 0
    assert [change.new for change in machine.steps(PATIENCE)] == [2]
    assert lines == []


def test_ranks_share_what_others_leave() -> None:
    machine = Machine(4, busy=1)
    run = machine.run(2, ranks=2)
    machine.step()
    assert run.threads == 1, "two ranks of one thread beside the other program"
    machine.busy = 0
    machine.steps(PATIENCE)
    assert run.threads == 2


def test_cores_that_the_run_does_not_use_are_for_others() -> None:
    machine = Machine(8, busy=4)
    assert started(machine, 4).threads == 4
    machine = Machine(8, busy=4)
    assert started(machine, 4, beside=1).threads == 3
    assert started(Machine(2), 2, beside=1).threads == 2, "more threads than cores, and nobody else"


def hidden(**options: Any) -> Machine:
    return Machine(2, tells=False, **options)


def test_without_the_systems_numbers_missing_cpu_time_shows_contention(lines: list[str]) -> None:
    machine = hidden()
    run = started(machine, 2, note=lines.append)
    assert machine.steps(20) == []
    machine.busy = 1
    (change,) = machine.steps(1)
    assert (change.new, change.others) == (1, pytest.approx(2 / 3))
    changes = machine.steps(200)
    threads = [change.new for change in changes]
    assert threads == [2, 1] * (len(threads) // 2)
    assert 2 <= len(threads) // 2 <= 4, "attempts after 10, 20, 40 and 80 s"
    assert run.crowded
    machine.busy = 0
    assert [change.new for change in machine.steps(LONGEST)] == [2]
    assert machine.steps(100) == []
    assert len(lines) == 2, "attempts that fail have no line"


def test_cpu_time_is_no_sign_while_the_run_does_something_else() -> None:
    machine = hidden()
    run = started(machine, 2)
    machine.computes, machine.now = False, machine.now + 1
    assert run.look(computing=False) is None
    assert run.threads == 2


def test_a_run_that_never_waited_for_a_cpu_has_just_slept() -> None:
    machine = hidden(switches=1)
    run = started(machine, 2)
    machine.switches, machine.computes = 0, False
    assert machine.steps(5) == []
    assert run.threads == 2
    uncounted = hidden(switches=0)
    run = started(uncounted, 2)
    uncounted.computes = False
    assert [change.new for change in uncounted.steps(5)] == [1]
    assert run.patience == UNSEEN


def test_numbers_that_stand_still_are_no_numbers() -> None:
    machine = hidden()
    stuck: Callable[[], Usage] = lambda: Usage(  # noqa: E731
        (now := machine.usage(0)).time, 5.0, 0.0, now.process, 0.0, 0.0, now.switches
    )
    run = Contention(2, 2, stuck, clock=lambda: machine.now)
    machine.runs.append(run)
    machine.computes, machine.busy = True, 1
    machine.steps(1)
    assert run.threads == 1


def test_a_moment_of_contention_is_not_worth_a_line(lines: list[str]) -> None:
    machine = Machine(2)
    run = started(machine, 2, note=lines.append)
    machine.busy = 1
    machine.steps(0.5)
    assert run.threads == 1
    machine.busy = 0
    machine.steps(10)
    assert (run.threads, lines) == (2, [])


def test_lines_are_few(lines: list[str]) -> None:
    machine = Machine(2)
    started(machine, 2, note=lines.append)
    for _ in range(9):
        for machine.busy in (1, 0):
            machine.steps(10)
    assert len(lines) == 6, "three times both"
    assert lines[-1] == "The cores are free again: this run uses 2 threads. Further changes are not shown."
    assert not any("Further" in line for line in lines[:-1])


@pytest.mark.parametrize("fixed", ["--threads 2", "OMP_NUM_THREADS=2", "--deterministic"])
def test_the_users_setting_stays_and_one_line_says_what_it_costs(lines: list[str], fixed: str) -> None:
    machine = Machine(2)
    run = started(machine, 2, fixed=fixed, note=lines.append)
    for _ in range(3):
        for machine.busy in (0, 1):
            assert machine.steps(10) == []
    assert (run.threads, run.crowded) == (2, True)
    assert lines == [
        f"Other processes use 0.7 of 2 cores, and {fixed} fixes the number of threads at 2; "
        "without it, a run uses fewer meanwhile."
    ]


def test_a_number_that_nothing_could_lower_needs_no_line(lines: list[str]) -> None:
    for threads, fixed in ((1, "--threads 1"), (1, None), (2, "")):
        machine = Machine(2, busy=3)
        run = started(machine, threads, fixed=fixed, note=lines.append)
        machine.steps(10)
        assert (run.threads, run.crowded) == (threads, True)
    assert lines == []
