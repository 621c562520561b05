"""The watch over a run: diagnoses from beats, exchanged by hand, and runs under torchrun that end."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch.distributed import HashStore, Store

from mspipe_triton.errors import GraphError
from mspipe_triton.processes import watch as module
from mspipe_triton.processes.board import LAUNCHER, Beat, Board, Verdict, process_name
from mspipe_triton.processes.meeting import FIRST, Meeting, part
from mspipe_triton.processes.watch import BEAT, STARTING, SUSPECT, Watch
from tests.processes.running import PROCESSES, TORCHRUN, started

STALLED = 10.0


class Ended(BaseException):
    """Stands for the end of the process."""


class Peers:
    """A watch of process 0 whose thread is run by hand, and the other processes, which beat by hand."""

    def __init__(self, store: Store, rank: int = 0, speaks: bool = True, met: bool = True) -> None:
        self.lines: list[str] = []
        self.board = Board(store, PROCESSES)
        self.watch = Watch(store, rank, PROCESSES, self.lines.append if speaks else None, stalled=STALLED)
        self.watch.names = {rank: f"stage {rank}" for rank in range(PROCESSES)}
        self.watch._board = self.board if met else None
        self.count = 0

    def tick(self, *beating: int, seconds: float = BEAT, done: bool = False) -> None:
        """Let processes beat, and then the watch, after an interval."""
        self.count += 1
        for rank in beating:
            self.board.beat(rank, self.count, done)
        self.watch._ring.send(b"\0")  # so that it does not wait
        self.watch._tick(seconds)

    def until_the_end(self, *beating: int) -> tuple[float, int]:
        """Tick until the process ends; returns the seconds and its exit status."""
        for number in range(1, 1000):
            try:
                self.tick(*beating)
            except Ended as end:
                return number * BEAT, end.args[0]
        raise AssertionError("no end")


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Peers]]:
    def end(code: int) -> None:
        raise Ended(code)

    with monkeypatch.context() as changes:
        changes.setattr(module.os, "_exit", end)
        yield Peers


def test_a_process_whose_beat_ends_is_dead_after_the_limit(peers: Callable[..., Peers]) -> None:
    run = peers(HashStore())
    run.tick(1, 2)
    seconds, code = run.until_the_end(2)
    assert STALLED <= seconds <= STALLED + 2 * BEAT
    assert code == 1
    assert len(run.lines) == 1
    assert re.fullmatch(r"process 1 \(stage 1, pid \d+\) has not answered for 10 seconds", run.lines[0])


@pytest.mark.parametrize(
    ("rank", "others", "lines"),
    [
        (0, [1], ["process 2 (stage 2) has not joined for 100 seconds"]),
        (1, [2], ["process 0 (stage 0) has not joined for 103 seconds"]),
        (2, [], []),
    ],
)
def test_a_process_that_never_joins_has_more_time(
    rank: int, others: list[int], lines: list[str], peers: Callable[..., Peers]
) -> None:
    store = HashStore()
    run = peers(store, rank, met=False)
    meetings = [Meeting(store, each, PROCESSES) for each in others]
    run.tick()
    assert not any(each.attend() for each in meetings)
    seconds, code = run.until_the_end()
    assert seconds + BEAT >= STALLED * STARTING
    assert (code, run.lines) == (1, lines)
    verdict = Board(part(store, FIRST), PROCESSES).read()[0]
    assert verdict == (Verdict(lines[0], 1, 0) if rank == 0 else None)  # the launcher reads it


@pytest.mark.parametrize(
    ("number", "line"),
    [(signal.SIGTERM, "stopped by SIGTERM; process 1 (stage 1) has not joined"), (signal.SIGINT, "interrupted")],
)
def test_signals_end_a_process_that_waits_for_others(
    number: signal.Signals, line: str, peers: Callable[..., Peers]
) -> None:
    store = HashStore()
    first, last = (peers(store, rank, met=False) for rank in (0, 2))
    for each in (first, last):
        each.tick()
        each.watch._ring.send(bytes([number]))
        assert each.until_the_end() == (2 * BEAT, 1)
    assert (first.lines, last.lines) == ([line], [])


@pytest.mark.parametrize("number", [signal.SIGTERM, None])
def test_a_suspicion_shortens_the_limit(number: signal.Signals | None, peers: Callable[..., Peers]) -> None:
    run = peers(HashStore())
    run.tick(1, 2)
    if number is None:
        run.watch._suspect("lost a connection")
    else:
        run.watch._ring.send(bytes([number]))
    seconds, code = run.until_the_end(1)
    assert SUSPECT <= seconds <= SUSPECT + 4 * BEAT
    assert code == 1
    assert len(run.lines) == 1
    assert re.fullmatch(r"process 2 \(stage 2, pid \d+\) died", run.lines[0])


@pytest.mark.parametrize("reason", ["stopped by SIGTERM", "process 0 lost a connection: reset"])
def test_a_suspicion_is_the_verdict_if_all_live(reason: str, peers: Callable[..., Peers]) -> None:
    run = peers(HashStore())
    run.watch._suspect(reason)
    assert run.until_the_end(1, 2)[1] == 1
    assert run.lines == [reason]


def test_a_process_that_was_slow_itself_accuses_nobody(peers: Callable[..., Peers]) -> None:
    run = peers(HashStore())
    run.tick(1, 2)
    for _ in range(10):  # the time that `_run` counts for a long pause of its own
        run.tick(seconds=2 * BEAT - 0.01)
        run.tick(1, 2)
    assert run.lines == []


def test_interrupts_end_the_run_at_once(peers: Callable[..., Peers]) -> None:
    run = peers(HashStore())
    run.tick(1, 2)
    run.watch._ring.send(bytes([signal.SIGINT]))
    assert run.until_the_end(1, 2) == (2 * BEAT, 1)
    assert run.lines == ["interrupted"]


@pytest.mark.parametrize("speaks", [True, False])
def test_the_first_verdict_is_that_of_all_and_is_said_once(speaks: bool, peers: Callable[..., Peers]) -> None:
    store = HashStore()
    first, second = peers(store, 0, speaks), peers(store, 1, speaks)
    for each in (first, second):
        each.watch._failure = each.watch._verdict_on(GraphError("the plan is of another model"))
    assert second.until_the_end() == (BEAT, 2)
    assert first.until_the_end() == (BEAT, 2)
    assert second.lines == (["the plan is of another model"] if speaks else [])
    assert first.lines == []


def test_the_block_ends_when_all_are_done(peers: Callable[..., Peers]) -> None:
    run = peers(HashStore())
    run.watch._done = True
    run.tick(1, done=True)
    assert not run.watch._complete.is_set()
    run.tick(2, done=True)
    assert run.watch._complete.is_set()


def test_exceptions_name_their_process_and_place(peers: Callable[..., Peers]) -> None:
    run = peers(HashStore())
    try:
        raise ValueError("bad\nwidth")
    except ValueError as error:
        verdict = run.watch._verdict_on(error)
    assert re.fullmatch(r"stage 0 \(process 0\) raised ValueError: bad \(test_watch.py:\d+\)", verdict.message)
    assert (verdict.code, verdict.author) == (1, 0)


def test_a_verdict_is_never_replaced() -> None:
    board = Board(HashStore(), 2)
    assert board.read() == (None, [Beat(), Beat()])
    first, second = Verdict("a", 1, LAUNCHER), Verdict("b", 2, 0)
    assert board.settle(first) == board.settle(second) == board.read()[0] == first


def test_names_of_processes() -> None:
    assert process_name(3, {}) == "process 3"
    assert process_name(3, {3: "stage 1"}) == "process 3 (stage 1)"
    assert process_name(3, {3: "stage 1"}, 42, "far") == "process 3 (stage 1, pid 42 on far)"


@pytest.mark.slow
def test_torchrun_a_process_that_is_killed_is_named_once(tmp_path: Path) -> None:
    with started(TORCHRUN, "turns", tmp_path) as ring:
        pid = ring.pids()[1]
        ring.kill(pid)
        code, output, lines = ring.end()
        assert code != 0
        assert "result" not in output
        assert lines == [f"process 1 (stage 1, pid {pid}) died"]
        assert ring.left_over() == []


@pytest.mark.slow
def test_torchrun_a_complete_run_prints_its_result(tmp_path: Path) -> None:
    with started(TORCHRUN, "ends", tmp_path) as ring:
        code, output, lines = ring.end()
        assert (code, output.splitlines().count("result"), lines) == (0, 1, [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "line"),
    [
        ("raises", r"stage 1 \(process 1\) raised ValueError: bad \(ring.py:\d+\)"),
        ("late", r"stage 2 \(process 2\) raised ValueError: no checkpoint \(ring.py:\d+\)"),
        ("exits", r"process 1 \(stage 1, pid \d+\) died"),
        ("refuses", "the plan is of another model"),
    ],
)
def test_torchrun_a_run_that_fails_says_so_once(case: str, line: str, tmp_path: Path) -> None:
    with started(TORCHRUN, case, tmp_path) as ring:
        code, _, lines = ring.end()
        assert code != 0
        assert len(lines) == 1
        assert re.fullmatch(line, lines[0])
        assert ring.left_over() == []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "line"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "stopped by SIGTERM")])
def test_torchrun_a_signal_to_it_ends_all(number: signal.Signals, line: str, tmp_path: Path) -> None:
    with started(TORCHRUN, "turns", tmp_path) as ring:
        ring.pids()
        ring.kill(ring.process.pid, number)
        code, _, lines = ring.end()
        assert code != 0
        assert lines == [line]
        assert ring.left_over() == []


@pytest.mark.slow
def test_torchrun_that_is_killed_takes_the_processes_with_it(tmp_path: Path) -> None:
    with started(TORCHRUN, "turns", tmp_path) as ring:
        ring.pids()
        ring.process.kill()
        code, _, lines = ring.end()
        assert (code, lines) == (-signal.SIGKILL, ["the launcher died"])
