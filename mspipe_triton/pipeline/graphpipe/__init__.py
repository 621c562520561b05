"""Pipelines whose stages form a DAG (GraphPipe): operator graphs, and their planning, scheduling and simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mspipe_triton.lazy import load_lazily

if TYPE_CHECKING:
    from mspipe_triton.pipeline.graphpipe.choice import Choice
    from mspipe_triton.pipeline.graphpipe.costs import ACCELERATORS, Accelerator
    from mspipe_triton.pipeline.graphpipe.models import MODELS
    from mspipe_triton.pipeline.graphpipe.operators import Duration, Operator, OperatorGraph
    from mspipe_triton.pipeline.graphpipe.picture import draw
    from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan, PipelineStage
    from mspipe_triton.pipeline.graphpipe.plan_file import read_plan
    from mspipe_triton.pipeline.graphpipe.planning import Planned, plan_model
    from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
    from mspipe_triton.pipeline.graphpipe.profile import read_profile
    from mspipe_triton.pipeline.graphpipe.timeline import Timeline, simulate_plan, stage_graph
    from mspipe_triton.pipeline.graphpipe.trace import write_trace

_PUBLIC = {
    "ACCELERATORS": "costs",
    "Accelerator": "costs",
    "Choice": "choice",
    "Cluster": "problem",
    "Duration": "operators",
    "MODELS": "models",
    "Operator": "operators",
    "OperatorGraph": "operators",
    "PipelinePlan": "plan",
    "PipelineStage": "plan",
    "Planned": "planning",
    "Problem": "problem",
    "Timeline": "timeline",
    "draw": "picture",
    "plan_model": "planning",
    "read_plan": "plan_file",
    "read_profile": "profile",
    "simulate_plan": "timeline",
    "stage_graph": "timeline",
    "write_trace": "trace",
}

__all__ = [
    "ACCELERATORS",
    "MODELS",
    "Accelerator",
    "Choice",
    "Cluster",
    "Duration",
    "Operator",
    "OperatorGraph",
    "PipelinePlan",
    "PipelineStage",
    "Planned",
    "Problem",
    "Timeline",
    "draw",
    "plan_model",
    "read_plan",
    "read_profile",
    "simulate_plan",
    "stage_graph",
    "write_trace",
]


__getattr__, __dir__ = load_lazily(__name__, {name: f"{__name__}.{module}" for name, module in _PUBLIC.items()})
