"""Number of kernels that a resident training step launches, counted on the CPU in Triton's interpreter.

The number estimates the nodes of the step's CUDA graph: a torch operation counts once, while on a GPU cuBLAS may split
a product in two kernels and a large reduction may need two. `python -m bench.studies.launches` prints the
counts by name and writes bench/results/launches.json.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported

from bench.report import RESULTS, command, header, write
from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime.launch import Config, Kernel, triton, use_triton
from mspipe_triton.training.resident import Resident

RESULT = RESULTS / "launches.json"
MODELS = ("tgn", "jodie", "apan")
OURS, TORCH = "mspipe_triton", "aten"
CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
# Operations that make a tensor and write no number: views that their schemas do not show, and allocations.
WRITES_NOTHING = frozenset({
    "_unsafe_view", "_reshape_alias", "detach", "alias", "lift_fresh", "empty", "empty_like", "empty_strided",
    "new_empty", "new_empty_strided",
})  # fmt: skip


def launches(step: Callable[[], Any]) -> dict[str, int]:
    """Launches of a step on the CPU, by name: Triton kernels, and "aten::…" for torch operations that write memory.

    Our operations must run as kernels (`use_triton(True)`, in the interpreter). Their launches and the torch operations
    inside them count; they themselves do not, nor do views, allocations and operations with no number to write.
    """
    counter = _Counter()
    with _counting_kernels(counter.counts), counter:
        step()
    return dict(counter.counts.most_common())


class _Counter(TorchDispatchMode):
    """Counter of torch operations below autograd, also inside our own operations."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == OURS:
            with self:  # a mode is off while it handles a call
                return func.redispatch(CPU, *args, **kwargs)
        result = func(*args, **kwargs)
        name = func._schema.name.removeprefix(f"{TORCH}::")
        if func.namespace == TORCH and name not in WRITES_NOTHING and not func.is_view and _any_numbers(result):
            self.counts[func._schema.name] += 1
        return result


def _any_numbers(result: Any) -> bool:
    """Check that an operation with this result wrote numbers; one without a result wrote into its arguments."""
    parts = result if isinstance(result, (list, tuple)) else [result]
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    return not tensors or any(tensor.numel() for tensor in tensors)


@contextmanager
def _counting_kernels(counts: Counter[str]) -> Iterator[None]:
    """Count launches of kernels within a block, but not the torch operations that the interpreter runs them with."""
    launch = Kernel.launch

    def count_launch(self: Kernel, grid: tuple[int, ...], config: Config, *arguments: Any, **constants: Any) -> None:
        if all(grid):
            counts[self.name] += 1
        with _disable_current_modes():
            launch(self, grid, config, *arguments, **constants)

    Kernel.launch = count_launch
    try:
        yield
    finally:
        Kernel.launch = launch


def of_model(model: str, size: int = 6, dim: int = 8, fanout: int = 2) -> dict[str, int]:
    """Launches of one training step of a model, on a small stream with edge features.

    Args:
        size: B, events per batch. dim: width of memory, time encoding and embeddings. fanout: for models that use one.
    """
    stream = synthetic_stream(SyntheticConfig(events=10 * size, users=3 * size, items=10, edge_features=3))
    config = ModelConfig(model, dim=dim, **({} if model == "jodie" else {"fanout": fanout}))
    train = TrainConfig(batch_size=size, device="cpu", placement="device")
    session = Session.create(RunConfig(model=config, train=train), stream)  # for which the interpreter takes long
    use_triton(True)
    try:
        steps = Resident(session).training()
        steps.start(0, 3 * size, 1)
        steps.step()  # one-off work happens here
        return launches(steps.step)
    finally:
        use_triton(None)


def summary(counts: dict[str, int]) -> dict[str, Any]:
    """Counts with their sums: of all, of Triton's kernels and of torch's operations."""
    total, by_torch = sum(counts.values()), sum(count for name, count in counts.items() if "::" in name)
    return {"total": total, "triton": total - by_torch, "torch": by_torch, "by_operation": counts}


def main() -> None:
    """Count, print, write."""
    models = {model: summary(of_model(model)) for model in MODELS}
    for model, counts in models.items():
        print(f"{model}: {counts['total']} launches, {counts['torch']} of them by torch")
        for name, count in counts["by_operation"].items():
            print(f"{count:6d}  {name}")
    report = {**header(command("bench.studies.launches")), "models": models}
    report["versions"]["triton"] = triton.__version__
    write(report, RESULT)


if __name__ == "__main__":
    main()
