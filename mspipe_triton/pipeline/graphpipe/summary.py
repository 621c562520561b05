"""Summary of a planned model as JSON."""

from __future__ import annotations

from typing import Any

from mspipe_triton.pipeline.graphpipe.choice import Choice, Planned
from mspipe_triton.pipeline.graphpipe.timeline import simulate_plan


def summary(planned: Planned) -> dict[str, Any]:
    """Return the plan of a model, the best chain beside it, and how far from the best they can be.

    Returns:
        For the plan, and under "sequential" for the chain: "depth"; "time_per_sample", in seconds, with filling and
        draining; "bottleneck", the same of its slowest stage in steady state; "bubble", the idle share of its devices;
        "in_flight", micro-batches by stage; "stages"; "search_seconds"; "states". For the plan also "lower_bound" in
        seconds per sample, "bounds" by their reason, and "speedup" over the chain. Without a chain that fits,
        "sequential" and "speedup" are None.
    """
    problem, bound = planned.problem, planned.bound
    return {
        "model": problem.graph.name,
        "batch": problem.batch,
        "devices": problem.cluster.devices,
        "memory": problem.cluster.memory,
        **_choice(planned.graph),
        "lower_bound": bound.seconds,
        "bounds": {"load": bound.load, "path": bound.path, "memory": bound.memory},
        "speedup": planned.speedup,
        "sequential": None if planned.sequential is None else _choice(planned.sequential),
    }


def _choice(choice: Choice) -> dict[str, Any]:
    plan = choice.plan
    names = [stage.name for stage in plan.stages]
    idle = simulate_plan(plan).bubble
    return {
        "depth": plan.depth,
        "time_per_sample": choice.time_per_sample,
        "bottleneck": float(plan.bottleneck),
        "bubble": sum(idle.values()) / len(idle),
        "in_flight": {stage.name: stage.in_flight for stage in plan.stages},
        "stages": [
            {
                "name": stage.name,
                "operators": list(plan.problem.graph.names(stage.operators)),
                "devices": list(stage.devices),
                "micro_batch": stage.rhythm.micro_batch,
                "group": stage.rhythm.group,
                "after": [names[each] for each in stage.after],
                "joins": [names[each] for each in stage.joins],
                "memory": float(plan.memory(stage)),
            }
            for stage in plan.stages
        ],
        "search_seconds": choice.search_seconds,
        "states": choice.states,
    }
