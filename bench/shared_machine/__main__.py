"""Training on a machine that others use too: time per iteration beside busy processes and another training.

`python -m bench.shared_machine --data wiki.csv --out bench/results/shared-machine.json` trains TGN with shipped
settings in blocks, with a number of threads that is fixed and one that follows the machine's use, in turn.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.report import command, header, show
from bench.shared_machine.summary import SLOWER, summary
from bench.shared_machine.worker import Block, Facts, busy, train, workers
from mspipe_triton.machine import usage

console = Console(stderr=True, highlight=False)
SETTLE = 1.5  # seconds of training before a block beside others counts


def main(
    data: Annotated[str, typer.Option(help="A CSV or Parquet file, or `synthetic`.")],
    batch_size: int = 600,
    pairs: Annotated[int, typer.Option(help="Pairs of blocks on the idle machine.")] = 12,
    repeats: Annotated[int, typer.Option(help="Pairs of blocks beside busy processes.")] = 3,
    iterations: Annotated[int, typer.Option(help="Iterations of a block, at most.")] = 60,
    seconds: Annotated[float, typer.Option(help="Seconds of a block beside others, at most.")] = 6.0,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Measure, and print the JSON; nothing else should use the machine meanwhile."""
    before = _others()
    console.print(f"Other processes use {before:.2f} cores before the measurement.")
    with workers(2, data, batch_size) as (ends, facts):
        first, block = ends[:1], Block(True, iterations, seconds)
        idle = []
        for number in range(pairs):
            turn = (False, True) if number % 2 == 0 else (True, False)
            each = {adapts: train(first, Block(adapts, iterations))[0] for adapts in turn}
            idle.append((each[False], each[True]))
        _print("idle", *idle[-1])
        beside: dict[int, tuple[list[Facts], list[Facts], list[Facts]]] = {}
        for count in SLOWER:
            beside[count] = ([], [], [])
            for _ in range(repeats):
                beside[count][2].extend(train(first, Block(True, iterations)))
                for adapts, blocks in zip((False, True), beside[count][:2], strict=True):
                    with busy(count):
                        blocks += train(first, Block(adapts, iterations, seconds, SETTLE))
            _print(f"beside {count}", beside[count][0][-1], beside[count][1][-1])
        alone = [train([end], block)[0] for end in ends]
        fixed, adapting = (train(ends, Block(adapts, seconds=seconds, settle=SETTLE)) for adapts in (False, True))
        for numbers in zip(fixed, adapting, strict=True):
            _print("two trainings", *numbers)
        first[0].send(Block(True, seconds=2 * SETTLE, settle=SETTLE))
        time.sleep(SETTLE)
        with busy(1):
            since = time.monotonic()
            dropped = first[0].recv()["dropped"]
        result = summary(idle, beside, (fixed, adapting), alone, None if dropped is None else dropped - since)
    threads = facts["settings"]["threads"]
    show({**header(command("bench.shared_machine"), threads), **facts, "others_before": before, **result}, out)


def _others() -> float:
    """Return the cores that other processes use, over two seconds."""
    first = usage()
    time.sleep(2.0)
    last = usage()
    if first.busy is None or last.busy is None:
        return 0.0
    return max(0.0, last.busy - first.busy - last.process + first.process) / (last.time - first.time)


def _print(name: str, fixed: Facts, adapting: Facts) -> None:
    console.print(f"{name}: {fixed['ms']:.1f} ms fixed, {adapting['ms']:.1f} ms adapting")


if __name__ == "__main__":
    typer.run(main)
