"""Runs that torchrun starts again after the death of a process: on one machine, and by two agents as on two."""

from __future__ import annotations

import re
import socket
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.processes.running import RING, Run, running

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--max-restarts", "1")
ENDS = re.compile(r"^(\d) after 1: (\w+)$", re.MULTILINE)

pytestmark = pytest.mark.slow


def ends(outputs: str, author: int) -> list[str]:
    """Return the ranks of the processes that have ended and have read what one wrote before the restart."""
    rows = ENDS.findall(outputs)
    assert {pid for _, pid in rows} == {str(author)}
    return sorted(rank for rank, _ in rows)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize("backend", ["c10d", "static"])
@pytest.mark.parametrize("dead", [0, 1])
def test_processes_start_again_and_read_the_notes_of_the_first_start(backend: str, dead: int, tmp_path: Path) -> None:
    way = ["--rdzv-backend", backend, "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    command = [*TORCHRUN, *way, "--nproc-per-node", "2", str(RING), "again", str(tmp_path)]
    with running(command, tmp_path, 2, "ring") as run:
        pids = run.pids()
        run.kill(pids[dead])
        code, output, lines = run.end()
        assert (code, lines) == (0, [f"process {dead} (stage {dead}, pid {pids[dead]}) died"])
        assert ends(output, pids[0]) == ["0", "1"]
        assert run.left_over() == []


@pytest.mark.parametrize("dead", [0, 1])
def test_agents_that_count_restarts_differently(dead: int, tmp_path: Path) -> None:
    nodes = ("--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d")
    way = [*nodes, "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]

    def agent(host: bool) -> AbstractContextManager[Run]:
        command = [*TORCHRUN, *way, "--rdzv-conf", f"is_host={host}", str(RING), "again", str(tmp_path)]
        return running(command, tmp_path, 2, "ring")

    with agent(True) as first, agent(False) as second:
        pids = first.pids()
        first.kill(pids[dead])
        codes, outputs, lines = zip(first.end(), second.end(), strict=True)
        assert codes == (0, 0)
        assert [*lines[0], *lines[1]] == [f"process {dead} (stage {dead}, pid {pids[dead]}) died"]
        assert ends("".join(outputs), pids[0]) == ["0", "1"]
