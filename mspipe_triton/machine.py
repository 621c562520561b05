"""The machine: cores that this process may use, and the CPU time that it and other processes have used."""

from __future__ import annotations

import math
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")
SHARED_THREADS = "MSPIPE_SHARED_THREADS"  # set where the launcher of ranks, and not the user, sets OMP_NUM_THREADS
_CONTROLLERS = ("cpu", "cpu,cpuacct", "cpuacct,cpu")  # folders of version 1


def cores() -> int:
    """Number of CPUs that this process may keep busy: its share of the machine's, if it is one of several ranks.

    A container's quota counts as whole cores, at least one.
    """
    return max(1, available_cores() // local_ranks())


def available_cores() -> int:
    """Number of CPUs that this process and the other ranks of its run may keep busy on this machine."""
    limit = _quota()
    return len(cpus()) if limit is None else min(len(cpus()), max(1, int(limit)))


def cpus() -> frozenset[int]:
    """Numbers of the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def local_ranks() -> int:
    """Number of ranks of this process's run on this machine."""
    count = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(count)) if count.isascii() and count.isdigit() else 1


def thread_variable() -> str | None:
    """Return the environment variable by which the user has set the number of threads, as NAME=VALUE, or None."""
    ours = () if SHARED_THREADS in os.environ else ("OMP_NUM_THREADS",)
    names = [name for name in (*ours, "MKL_NUM_THREADS") if os.environ.get(name)]
    return f"{names[0]}={os.environ[names[0]]}" if names else None


@dataclass(frozen=True)
class Usage:
    """CPU seconds used so far; differences of two readings are the use in between.

    Args:
        time: of the reading, on `time.perf_counter`'s clock.
        busy: of the CPUs that this process may run on, by all processes; None if the system does not tell.
        yielding: the part of `busy` of processes that have a lower priority than this one.
        process: of this process.
        relatives: of the processes that it started and, if it is a rank, of the other ranks and their launcher.
        ended: the part of `relatives` of processes that it started and that have ended.
        switches: times that the system has made this process wait for a CPU; not seconds.
    """

    time: float
    busy: float | None
    yielding: float
    process: float
    relatives: float
    ended: float
    switches: int


def usage() -> Usage:
    """Read the CPU time used so far."""
    now, process, (busy, yielding), ended = time.perf_counter(), time.process_time(), _busy_seconds(), _ended_seconds()
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    return Usage(now, busy, yielding, process, ended + sum(_relatives()), ended, switches)


def _busy_seconds() -> tuple[float | None, float]:
    """Return the busy seconds of this process's CPUs, and those of lower priority."""
    try:
        lines = (PROC / "stat").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None, 0.0
    names = {f"cpu{number}" for number in cpus()}
    try:
        rows = [[int(field) for field in line.split()[1:9]] for line in lines if line.split(" ", 1)[0] in names]
        user, nice, system, _, _, irq, softirq, steal = map(sum, zip(*rows, strict=True))
    except ValueError:  # no row of these CPUs, or one of another form
        return None, 0.0
    if not any(map(sum, rows)):
        return None, 0.0
    busy = (user + nice + system + irq + softirq + steal) / _ticks()
    return busy, nice / _ticks() if os.getpriority(os.PRIO_PROCESS, 0) <= 0 else 0.0


def _ended_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _relatives() -> Iterator[float]:
    """Yield the CPU seconds of each living relative, with those of its children that have ended."""
    this = os.getpid()
    top = this if local_ranks() == 1 else os.getppid()
    table = _processes()
    children: dict[int, list[int]] = {}
    for process, (parent, _) in table.items():
        children.setdefault(parent, []).append(process)
    relatives, ahead = set[int](), [top]
    while ahead:
        process = ahead.pop()
        if process not in relatives:
            relatives.add(process)
            ahead += children.get(process, ())
    yield from (table[process][1] for process in relatives - {this} if process in table)


def _processes() -> dict[int, tuple[int, float]]:
    """Return the parent of every process, and its CPU seconds with those of its children that have ended."""
    result, ticks, folder = dict[int, tuple[int, float]](), _ticks(), str(PROC)
    if not os.path.isdir(folder):
        return result
    for entry in os.listdir(folder):
        if not entry.isdigit():
            continue
        try:
            file = os.open(f"{folder}/{entry}/stat", os.O_RDONLY)
        except OSError:  # it has ended
            continue
        try:
            fields = os.read(file, 1024).rpartition(b")")[2].split()  # after the name: state, parent, and so on
        except OSError:
            continue
        finally:
            os.close(file)
        result[int(entry)] = (int(fields[1]), sum(map(int, fields[11:15])) / ticks)
    return result


def _ticks() -> int:
    return os.sysconf("SC_CLK_TCK")


def _quota() -> float | None:
    """Return the CPUs that control groups let this process use, or None if they set no limit."""
    limits = [limit for folder in _groups() if (limit := _limit(folder)) is not None]
    return min(limits, default=None)


def _groups() -> Iterator[Path]:
    """Yield the folders of this process's control groups and of those above them, as far as they are visible."""
    try:
        lines = (PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        if not controllers:
            roots = [CGROUPS, CGROUPS / "unified"]
        elif "cpu" in controllers.split(","):
            roots = [CGROUPS / name for name in _CONTROLLERS]
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for root in roots:
            yield from (root.joinpath(*parts[:depth]) for depth in range(len(parts) + 1))


def _limit(group: Path) -> float | None:
    """Return the CPUs that a control group lets its processes use, or None for any number."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            words = " ".join((group / name).read_text(encoding="ascii") for name in names).split()
            quota, period = (float(word) for word in words)
        except (OSError, ValueError):  # no such file, or "max"
            continue
        if 0 < quota < math.inf and period > 0:
            return quota / period
    return None
