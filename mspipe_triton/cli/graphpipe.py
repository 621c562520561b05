"""Command that plans the training of a model as a pipeline whose stages form a DAG."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from mspipe_triton.choices import check_settings, setting
from mspipe_triton.cli.app import graphpipe_app
from mspipe_triton.cli.options import Json, flags_of, takes_flags
from mspipe_triton.errors import ConfigError
from mspipe_triton.files import check_output
from mspipe_triton.pipeline.graphpipe.costs import ACCELERATORS
from mspipe_triton.pipeline.graphpipe.models import MODELS
from mspipe_triton.pipeline.graphpipe.operators import OperatorGraph
from mspipe_triton.pipeline.graphpipe.problem import COPIES, Cluster, Problem
from mspipe_triton.pipeline.graphpipe.schedule import GROUPS

PROFILE = "profile"
_PREFIXES = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@dataclass(frozen=True)
class PlanSettings:
    """Devices, mini-batch and schedule to plan for.

    Raises:
        ConfigError: a value is not allowed.
    """

    devices: int = setting(8, "Number of devices.", minimum=1)
    batch: int = setting(128, "Samples per mini-batch.", minimum=1)
    memory: str = setting("", "Memory of a device, as in 16GB or 16GiB.", default_text="the accelerator's")
    schedule: str = setting("1f1b", "1f1b, or kfkb for groups of up to 4 passes.", choices=tuple(GROUPS))
    micro_batch: int = setting(0, "Samples per pass; 0 for the fastest divisor of the batch.", minimum=0)
    mixed: bool = setting(False, "Let stages differ in their micro-batch, where that is faster.")
    accelerator: str = setting("v100", f"Device: {', '.join(ACCELERATORS)}.", choices=tuple(ACCELERATORS))
    bandwidth: str = setting("", "Link within a node, per second, as in 50GB.", default_text="the accelerator's")
    between: str = setting("", "Link between nodes, per second, as in 12.5GB.", default_text="the accelerator's")
    node: int = setting(0, "Devices per node; 0 for the accelerator's number.", minimum=0)
    copies: int = setting(COPIES, "Bytes of training state per byte of parameters; 4 for Adam.", minimum=1)
    replicas: int = setting(0, "Devices per stage at most; 0 for any number, 1 for no data parallelism.", minimum=0)
    costs: str = setting(
        "analytic",
        "Times of module:attr: analytic, for the accelerator, or profile, measured on this machine.",
        choices=("analytic", PROFILE),
    )
    operators: int = setting(64, "Operators of module:attr at most; neighbours are merged.", minimum=1)

    def __post_init__(self) -> None:
        check_settings(self)

    def cluster(self, bandwidth: float | None = None) -> Cluster:
        """Return the devices; `bandwidth` was measured, in bytes per second, and stands in for the accelerator's."""
        usual = ACCELERATORS[self.accelerator].cluster(self.devices)
        return replace(
            usual,
            memory=parse_bytes("--memory", self.memory) or usual.memory,
            bandwidth=parse_bytes("--bandwidth", self.bandwidth) or bandwidth or usual.bandwidth,
            between=parse_bytes("--between", self.between) or usual.between,
            node=self.node or usual.node,
        )

    def graph(self, model: str) -> OperatorGraph:
        """Return a built-in model, or the one that a module builds."""
        kind = ACCELERATORS[self.accelerator]
        if model in MODELS:
            for name in ("costs", "operators"):
                if getattr(self, name) != getattr(PlanSettings, name):
                    raise ConfigError(f"--{name} is for module:attr, and {model} is built in; omit it")
            return MODELS[model](kind)
        if ":" not in model:
            raise ConfigError(f"--model must be {', '.join(MODELS)} or module:attr, not {model!r}")
        from mspipe_triton.pipeline.graphpipe.capture import capture, load_model

        module, args, kwargs = load_model(model)
        accelerator = None if self.costs == PROFILE else kind
        return capture(module, args, kwargs, accelerator=accelerator, most=self.operators, name=model)


@graphpipe_app.callback()
@partial(takes_flags, added=flags_of(PlanSettings))
def graphpipe(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(
            help=f"Model to plan for, required: {', '.join(MODELS)}, or module:attr: a function that returns a "
            "torch.nn.Module and example inputs."
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            help="Costs that a run measured, in place of times, and of --bandwidth unless set.", metavar="FILE"
        ),
    ] = None,
    picture: Annotated[
        str | None, typer.Option(help="Draw the plan to this .svg file.", metavar="FILE", show_default=False)
    ] = None,
    trace: Annotated[
        str | None, typer.Option(help="Write the timeline to this file, for Perfetto.", metavar="FILE")
    ] = None,
    as_json: Json = False,
    **flags: Any,
) -> None:
    """Plan the training of a model as a pipeline whose stages form a DAG (GraphPipe), and compare it with chains.

    For example: --model two-branch --devices 8 --batch 128 --memory 16GB
    """
    if context.invoked_subcommand is not None:
        _refuse_flags(context, context.invoked_subcommand)
        return
    if model is None:
        context.fail("Missing option '--model'")
    from mspipe_triton.cli.console import console
    from mspipe_triton.cli.graphpipe_screen import plan_screen
    from mspipe_triton.pipeline.graphpipe.picture import check_picture, draw
    from mspipe_triton.pipeline.graphpipe.planning import plan_model
    from mspipe_triton.pipeline.graphpipe.profile import read_profile
    from mspipe_triton.pipeline.graphpipe.timeline import simulate_plan
    from mspipe_triton.pipeline.graphpipe.trace import write_trace

    values = {name: value for name, value in flags.items() if value is not None}
    for name, value in {**values, "profile": profile, "picture": picture, "trace": trace}.items():
        if value == "":
            raise ConfigError(f"--{name.replace('_', '-')} is empty; give a value, or omit it")
    settings = PlanSettings(**values)
    if picture is not None:
        check_picture(Path(picture))
        if trace is not None and Path(picture).absolute() == Path(trace).absolute():
            raise ConfigError(f"--picture and --trace both name {picture}; use two files")
    for path in (picture, trace):
        if path is not None:
            check_output(Path(path))
    if profile is not None and settings.costs == PROFILE:
        raise ConfigError(f"--costs profile measures times, and --profile {profile} has some; omit one of them")
    graph, bandwidth = settings.graph(model), None
    if profile is not None:
        graph, bandwidth = read_profile(Path(profile), graph)
    problem = Problem(graph, settings.cluster(bandwidth), settings.batch, settings.copies, settings.replicas or None)
    with console.status("Planning ..."):
        planned = plan_model(problem, settings.schedule, settings.micro_batch or None, settings.mixed)
    console.print(plan_screen(planned))
    timeline = simulate_plan(planned.graph.plan)
    if picture is not None:
        draw(timeline, Path(picture))
    if trace is not None:
        write_trace(timeline, Path(trace))
    if as_json:
        print(json.dumps(planned.to_json()))


def _refuse_flags(context: typer.Context, subcommand: str) -> None:
    """Refuse flags of planning that stand before a subcommand, which would ignore them."""
    for each in context.command.params:
        if context.params.get(each.name) not in (None, False):
            raise ConfigError(
                f"{each.opts[0]} stands before {subcommand}, and there it is for planning; put flags of {subcommand} "
                "after it"
            )


def parse_bytes(flag: str, text: str) -> float | None:
    """Parse a size such as 16GB, 1.5 GiB or 1e9; None if it is empty.

    Raises:
        ConfigError: it is not a number of at least 1 with a unit of bytes.
    """
    if not text:
        return None
    match = re.fullmatch(r"\s*([\d.]+(?:e[+-]?\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    try:
        size = float(match[1]) * _PREFIXES[match[2]] if match else 0.0
    except (KeyError, ValueError):
        size = 0.0
    if not 1 <= size < float("inf"):
        raise ConfigError(f"{flag} must be a number of bytes of at least 1, as in 16GB or 16GiB, not {text!r}")
    return size
