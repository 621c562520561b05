"""The part of a pipelined run that a process carries out: it needs as many processes as the plan has devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch.distributed import HashStore

from mspipe_triton.errors import ConfigError
from mspipe_triton.pipeline.graphpipe.run import process
from mspipe_triton.processes.watch import Watch
from tests.pipeline.graphpipe.run.standins import standin


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """The watch of process 1 of 2, which does not run, in the place of that of `run_process`."""
    result = Watch(HashStore(), 1, 2, None)

    def run_process(work: Callable[[Watch], Any], say: Callable[[str], None]) -> Any:
        return work(result)

    monkeypatch.setattr(process, "run_process", run_process)
    monkeypatch.setattr(process, "start_group", lambda device, watch: f"{device} of {watch.rank}")
    return result


def test_processes_work_on_the_plan_and_are_named_after_their_stages(watch: Watch) -> None:
    plan = standin(("a", "b")).plan
    assert process.run_plan(lambda: plan, lambda plan, device: (plan.devices, device), "cpu", print) == (2, "cpu of 1")
    assert watch.names == {0: "stage 0", 1: "stage 1"}


@pytest.mark.usefixtures("watch")
def test_a_plan_of_another_number_of_devices_is_refused() -> None:
    plan = standin(("ab",)).plan
    with pytest.raises(ConfigError, match=r"the plan needs a process per device, so 1, and not 2; .*-per-node 1$"):
        process.run_plan(lambda: plan, lambda plan, device: None, "cpu", print)
