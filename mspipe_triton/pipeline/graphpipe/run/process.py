"""The part of a pipelined run that one process carries out: it has a device of the plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mspipe_triton.errors import ConfigError
from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from mspipe_triton.processes.start import run_process, start_group
from mspipe_triton.processes.watch import Watch

Result = TypeVar("Result")


def stage_names(plan: PipelinePlan) -> dict[int, str]:
    """Return the name of every rank's stage."""
    return {rank: stage.name for stage in plan.stages for rank in stage.devices}


def run_plan(
    make_plan: Callable[[], PipelinePlan],
    work: Callable[[PipelinePlan, str], Result],
    device: str,
    say: Callable[[str], None],
) -> Result:
    """Carry out this process's part of a run, as `run_process` does.

    Args:
        make_plan: returns the plan; a process per device is needed.
        work: takes the plan and the device, "cpu" or "cuda"; `torch.distributed` is initialised.
        device: auto, cpu or cuda.
        say: prints a line.

    Raises:
        ConfigError: the environment does not say where the store is.
    """

    def part(watch: Watch) -> Result:
        plan = make_plan()
        if plan.devices != watch.processes:
            raise ConfigError(
                f"the plan needs a process per device, so {plan.devices}, and not {watch.processes}; start torchrun "
                f"with --nproc-per-node {plan.devices}"
            )
        watch.names = stage_names(plan)
        return work(plan, start_group(device, watch))

    return run_process(part, say)
