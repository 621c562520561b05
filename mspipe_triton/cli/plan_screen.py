"""Screen of `plan`: the stages, the use of their resources, the staleness and the bound."""

from __future__ import annotations

from fractions import Fraction

from rich.console import Group
from rich.table import Table

from mspipe_triton.cli.console import format_value, titled
from mspipe_triton.pipeline.plan import Plan


def plan_table(plan: Plan) -> Group:
    """Table of `plan`: stages and the use of their resources, staleness in the title, and bounds below."""

    def number(value: Fraction) -> str:
        return format_value(float(value))

    misses = {0: "no update", 1: "the last update"}.get(plan.staleness, f"the last {plan.staleness} updates")
    patch = ", which the patch adds afterwards" if plan.schedule == "exact" and plan.staleness else ""
    table = Table()
    for name in ("stage", "resource", "time", "start", "resource in use"):
        table.add_column(name, justify="left" if name in ("stage", "resource") else "right")
    resources = set()
    for stage in plan.graph.stages:
        use = "" if stage.resource in resources else f"{float(plan.utilisation[stage.resource]):.0%}"
        resources.add(stage.resource)
        times = (plan.graph.times[stage.name], plan.starts[stage.name])
        table.add_row(stage.name, stage.resource, *map(number, times), use)
    return titled(
        f"{plan.schedule}: an iteration every {number(plan.period)}, staleness {plan.staleness}",
        table,
        "All times are in the unit of --times.",
        f"No schedule of these stages is faster than one iteration every {number(plan.lower_bound)}.",
        f"The memory fetch may miss {misses}{patch};",
        f"it starts {number(plan.slack)} later than it could.",
    )
