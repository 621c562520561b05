"""Screen of `graphpipe`: the stages of a plan, and the best chain and the lower bound beside it."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table

from mspipe_triton.cli.console import format_value, titled
from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from mspipe_triton.pipeline.graphpipe.planning import Planned


def plan_screen(planned: Planned) -> Group:
    """Tables of the comparison and of the plan's stages."""
    return Group(_comparison(planned), _stages(planned.graph.plan))


def _comparison(planned: Planned) -> Group:
    problem, table = planned.problem, Table()
    choices = [planned.graph] if planned.sequential is None else [planned.graph, planned.sequential]
    for name in ("", "stages form a DAG", "best chain")[: 1 + len(choices)]:
        table.add_column(name, justify="right" if name else "left")
    line = "No chain of stages fits into the memory."
    if planned.speedup is not None:
        line = f"The DAG is {planned.speedup:.2f} times as fast as the best chain."
    rows = {
        "time per sample, ms": [format_value(each.time_per_sample * 1e3) for each in choices],
        "lower bound of any plan, ms": [format_value(planned.bound.seconds * 1e3)] * len(choices),
        "time over the bound": [f"{planned.over_bound(each):.2f}" for each in choices],
        "slowest stage, ms per sample": [format_value(each.plan.bottleneck * 1e3) for each in choices],
        "devices in use": [f"{each.plan.devices}" for each in choices],
        "idle time of all devices": [f"{each.bubble:.0%}" for each in choices],
        "depth, stages": [f"{each.plan.depth}" for each in choices],
        "stages": [f"{len(each.plan.stages)}" for each in choices],
        "most micro-batches in flight": [f"{max(s.in_flight for s in each.plan.stages)}" for each in choices],
        "most memory of a device, GB": [format_value(_memory(each.plan)) for each in choices],
        "search, seconds": [f"{each.search_seconds:.2g}" for each in choices],
    }
    for label, values in rows.items():
        table.add_row(label, *values)
    title = f"{problem.graph.name}: batch {problem.batch:,} on {problem.cluster.devices:,} devices"
    return titled(title, table, line, "")


def _stages(plan: PipelinePlan) -> Group:
    table = Table()
    for name in ("stage", "operators", "after", "on", "batch", "held", "GB", "ms"):
        text = name in ("operators", "after")
        table.add_column(name, justify="left" if text else "right", no_wrap=not text)
    names = [each.name.removeprefix("stage ") for each in plan.stages]
    for name, stage in zip(names, plan.stages, strict=True):
        after = [names[each] for each in stage.after] + [f"joins {names[each]}" for each in stage.joins]
        size = f"{stage.rhythm.micro_batch}" + (f" × {stage.rhythm.group}" if stage.rhythm.group > 1 else "")
        time = plan.problem.time_per_sample(stage.operators, stage.rhythm.micro_batch, len(stage.devices))
        table.add_row(
            name,
            plan.problem.graph.summary(stage.operators),
            ", ".join(after),
            f"{len(stage.devices)}",
            size,
            f"{stage.in_flight}",
            format_value(plan.memory(stage) / 1e9),
            format_value(time * 1e3),
        )
    return titled(
        "Stages of the plan",
        table,
        legend=(
            "after: waits for outputs; joins: for forward passes alone;",
            "on: devices; batch: samples per pass; held: micro-batches in flight;",
            "GB: memory per device; ms: per sample, of the stage alone.",
        ),
    )


def _memory(plan: PipelinePlan) -> float:
    return max(plan.memory(stage) for stage in plan.stages) / 1e9
