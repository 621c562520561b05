"""Training whose rank is killed in the middle of an epoch: the end of the others, the resumed run, and the restart."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.report import command, header, show
from tests.processes.running import Run, running

RANKS = 3
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", str(RANKS))
# Words before and after the command, by the way to start it, and the rank to kill.
WAYS: dict[str, tuple[tuple[str, ...], tuple[str, ...], int]] = {
    "launcher": ((), ("--nproc", str(RANKS)), 1),
    "torchrun": (TORCHRUN, (), 0),
    "torchrun, restarts": ((*TORCHRUN, "--max-restarts", "1"), (), 2),
}
COMPLETE = 1  # epochs before the one in which a rank is killed
PATIENCE = 900.0  # seconds
Facts = dict[str, Any]


def main(
    data: Annotated[str, typer.Option(help="A CSV or Parquet file.")],
    epochs: Annotated[int, typer.Option(help="Epochs of each run.")] = 2,
    dim: Annotated[int, typer.Option(help="Width of memory and embeddings.")] = 32,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Run the command in processes of this machine, in float64 and without compiled loops."""
    torch.set_num_threads(1)
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    words = [data, "--epochs", str(epochs), "--dim", str(dim), "--dtype", "float64", "--no-autotune"]
    facts = {"ranks": RANKS, "epochs": epochs, "dim": dim, **measure([*words, "--device", "cpu"])}
    show({**header(command("bench.studies.ranks_deaths")), **facts}, out)


def measure(words: Sequence[str]) -> Facts:
    """Train undisturbed, and once in each way with a rank that is killed.

    Args:
        words: the arguments of `train`, without a folder.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = folder / "whole"
        seconds = complete(line("torchrun", words, whole), folder / "processes-whole")
        rows = [
            {"way": way, **end_of(way, words, folder / f"run-{number}", whole, seconds)}
            for number, way in enumerate(WAYS)
        ]  # fmt: skip
    return {
        "seconds": seconds, "runs": rows, "longest": max(row["seconds"] for row in rows),
        "largest_difference": max(row["difference"] for row in rows),
    }  # fmt: skip


def line(way: str, words: Sequence[str], out: Path) -> list[str]:
    """Return the command that trains in a way, in the run folder `out`."""
    before, after, _ = WAYS[way]
    return [sys.executable, *before, "-m", "mspipe_triton", "train", *words, *after, "--out", str(out)]


def complete(words: Sequence[str], folder: Path) -> float:
    """Run a command that succeeds, and return its seconds; its processes are told the folder."""
    folder.mkdir()
    start = time.perf_counter()
    with running(words, folder, RANKS, "mspipe-triton") as run:
        run.process.communicate(timeout=PATIENCE)
        assert run.process.returncode == 0, words
    return time.perf_counter() - start


def end_of(way: str, words: Sequence[str], out: Path, whole: Path, undisturbed: float) -> Facts:
    """Start a run, kill a rank in the middle of an epoch, and bring the run to its end.

    Args:
        way: of `WAYS`; unless torchrun restarts the run, another command resumes it.
        whole: folder of the undisturbed run, which took `undisturbed` seconds.

    Returns:
        seconds: until the last of the other ranks had ended. epochs: complete before. messages: of the run itself.
        named: the only message names the rank. difference: of final numbers from the undisturbed run. seconds_lost: by
        the restart, None without.
    """
    rank, folder = WAYS[way][2], out.with_name(f"processes-{out.name}")
    folder.mkdir()
    start = time.perf_counter()
    with running(line(way, words, out), folder, RANKS, "mspipe-triton") as run:
        _wait(lambda: len(epochs_of(out)) == COMPLETE or run.process.poll() is not None)
        pids = ranks_of(run)
        time.sleep(epochs_of(out)[-1]["seconds"] / 2)
        run.kill(pids[rank])
        killed = time.perf_counter()
        _wait(lambda: not set(pids.values()) & set(run.left_over()))
        seconds, epochs = time.perf_counter() - killed, len(epochs_of(out))
        _, errors = run.process.communicate(timeout=PATIENCE)
        lost = time.perf_counter() - start - undisturbed
    messages = re.findall(r"^mspipe-triton: (.*)$", errors, re.MULTILINE)
    restarts = "--max-restarts" in WAYS[way][0]
    assert (run.process.returncode == 0) == restarts, errors
    if not restarts:
        complete([*line(way, words, out), "--resume"], out.with_name(f"processes-{out.name}-resumed"))
    return {
        "rank": rank, "seconds": seconds, "epochs": epochs, "status": run.process.returncode, "messages": messages,
        "named": len(messages) == 1 and f"process {rank}" in messages[0],
        "difference": difference(out, whole), "seconds_lost": lost if restarts else None,
    }  # fmt: skip


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"the run has not come there within {PATIENCE:g} s"
        time.sleep(0.02)


def epochs_of(out: Path) -> list[Facts]:
    """Return the metrics of a run's complete epochs."""
    file = out / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    entries = [json.loads(each) for each in lines if each.endswith("\n")]
    return [each for each in entries if "event" not in each]


def ranks_of(run: Run) -> dict[int, int]:
    """Return the process of each rank of a run."""
    pids: dict[int, int] = {}
    for pid in sorted(run.left_over()):
        variables = Path(f"/proc/{pid}/environ").read_text(encoding="utf-8", errors="replace").split("\0")
        ranks = [each.removeprefix("RANK=") for each in variables if each.startswith("RANK=")]
        if ranks:
            pids.setdefault(int(ranks[0]), pid)
    return pids


def difference(out: Path, other: Path) -> float:
    """Return the largest relative difference of losses and scores between the results of two runs."""
    one, two = (json.loads((each / "result.json").read_text(encoding="utf-8")) for each in (out, other))
    pairs = [
        pair for name in ("losses", "val", "test")
        for pair in zip(_numbers(one[name]), _numbers(two[name]), strict=True)
    ]  # fmt: skip
    return max(abs(a - b) / abs(b) for a, b in pairs if b)


def _numbers(value: Any) -> Iterator[float]:
    """Yield the numbers of a JSON value, in order."""
    if isinstance(value, dict):
        value = [value[name] for name in sorted(value)]
    if isinstance(value, list):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, (int, float)):
        yield float(value)


if __name__ == "__main__":
    typer.run(main)
