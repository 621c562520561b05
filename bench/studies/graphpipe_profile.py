"""Profiled operators beside the whole module: the sum of their times, and passes of the module, on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from bench.report import command, header, show
from mspipe_triton.pipeline.graphpipe.capture import capture

EXAMPLE, SIZES, REPEATS = 8, (8, 16, 32, 64), 9


class Towers(nn.Module):
    """Two branches of four fully connected layers, and a head that joins them."""

    def __init__(self, width: int = 1024, layers: int = 4) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(layers))) for _ in range(2)
        )
        self.head = nn.Linear(2 * width, 10)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the head's outputs, [N, 10], for inputs [N, width]."""
        return self.head(torch.cat([self.first(one), self.second(other)], dim=1))


def encoder() -> nn.Module:
    """Four transformer layers of width 256."""
    layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 4)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], tuple[Tensor, ...]]]] = {
    "two towers of 4 layers": (Towers, lambda count: (torch.randn(count, 1024), torch.randn(count, 1024))),
    "4 transformer layers": (encoder, lambda count: (torch.randn(count, 64, 256),)),
}


def main(
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Measure; passes of the module add to the gradients of earlier ones, as micro-batches do."""
    torch.set_num_threads(threads)
    report = {**header(command("bench.studies.graphpipe_profile"), threads), "models": {}}
    for name, (build, inputs) in MODELS.items():
        torch.manual_seed(0)
        report["models"][name] = _compare(build(), inputs)
    ratios = [row["ratio"] for rows in report["models"].values() for row in rows.values()]
    show({**report, "least_ratio": min(ratios), "largest_ratio": max(ratios)}, out)


def _compare(module: nn.Module, inputs: Callable[[int], tuple[Tensor, ...]]) -> dict[str, Any]:
    """Times in ms, and the ratio of the operators' sum to the module's, by samples per pass."""
    graph = capture(module, inputs(EXAMPLE))
    rows = {}
    for count in SIZES:
        durations = [each for operator in graph.operators for each in (operator.forward, operator.backward)]
        predicted = sum(each.fixed + each.per_sample * count for each in durations)
        seconds = _seconds(module, inputs(count))
        rows[str(count)] = {"operators_ms": predicted * 1e3, "module_ms": seconds * 1e3, "ratio": predicted / seconds}
    return rows


def _seconds(module: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Median of a forward and a backward pass, after two to warm up."""
    times = []
    for _ in range(REPEATS + 2):
        start = time.perf_counter()
        outputs = module(*inputs)
        outputs.backward(torch.ones_like(outputs))
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


if __name__ == "__main__":
    typer.run(main)
