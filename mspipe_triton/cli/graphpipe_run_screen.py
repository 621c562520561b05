"""Screen of `graphpipe run`: a line of progress, and what was measured beside what was planned."""

from __future__ import annotations

from types import TracebackType

from rich.console import Group
from rich.table import Table

from mspipe_triton.cli.console import console, format_value, titled
from mspipe_triton.pipeline.graphpipe.run.result import Comparison, RunResult, StageResult

FAR = 3.0  # times the planned time, or a part of it, from which on costs are of another machine
_CLEAR = "\r\x1b[2K"


class ProgressLine:
    """A line on a terminal that shows the last mini-batch; nothing elsewhere.

    Errors may end the process at any time, so the cursor stays visible, at the start of the line.

    Args:
        steps: mini-batches of the whole run.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._write("")

    def show(self, step: int, loss: float) -> None:
        """Show the number of a mini-batch, from 1, and its loss."""
        self._write(f"Training: step {step:,} of {self.steps:,}, loss {loss:.4g}\r")

    def _write(self, text: str) -> None:
        if console.is_terminal:
            console.file.write(f"{_CLEAR}{text}")
            console.file.flush()


def run_screen(result: RunResult) -> Group:
    """Tables of the run and of its stages."""
    return Group(_run(result), _stages(result))


def _run(result: RunResult) -> Group:
    count, table = result.plan.devices, Table()
    title = (
        f"{result.plan.problem.graph.name}: {count:,} {'process' if count == 1 else 'processes'}, "
        f"{result.steps:,} {'step' if result.steps == 1 else 'steps'}"
    )
    table.add_column("")
    table.add_column("planned", justify="right")
    table.add_column("measured", justify="right")
    lines = []
    if result.losses:
        lines.append(f"loss {format_value(result.losses[0])} → {format_value(result.losses[-1])}")
    planned, measured = result.step_seconds
    if not measured / FAR <= planned <= measured * FAR:
        lines += [
            "the plan's costs are not those of this machine;",
            "--profile writes the measured ones, to plan again",
        ]
    for label, pair, unit in (
        ("time per step, ms", result.step_seconds, 1e3),
        ("time per sample in steady state, ms", result.period, 1e3),
    ):
        table.add_row(label, *_values(pair, unit))
    table.add_row("samples per second", "", format_value(result.samples_per_second))
    if result.bandwidth is not None:
        table.add_row("slowest link, GB/s", "", format_value(result.bandwidth / 1e9))
    table.add_row("host memory of a process, GB", "", format_value(result.peak_rss / 1e9))
    return titled(title, table, *lines, "")


def _stages(result: RunResult) -> Group:
    table = Table()
    for name in ("stage", "on", "forward", "backward", "MB", "held"):
        table.add_column(name, justify="right")
    for stage in result.stages:
        table.add_row(*_stage(stage))
    return titled(
        "Stages: planned / measured",
        table,
        legend=(
            "forward, backward: ms per micro-batch, medians; MB: memory per device;",
            "held: micro-batches in flight; on: devices.",
        ),
    )


def _stage(stage: StageResult) -> list[str]:
    pairs = ((stage.forward, 1e3), (stage.backward, 1e3), (stage.memory, 1e-6), (stage.in_flight, 1))
    cells = [" / ".join(_values(pair, unit)) for pair, unit in pairs]
    return [stage.name.removeprefix("stage "), f"{len(stage.devices)}", *cells]


def _values(pair: Comparison, unit: float) -> list[str]:
    return [format_value(float(value * unit)) for value in pair]
