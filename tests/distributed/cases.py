"""Trainings that ranks share, as the pool's processes carry them out, and the results that tests compare."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.distributed.ranks import ALONE, Ranks
from mspipe_triton.evaluation.evaluate import predict_split
from mspipe_triton.execution import RunSettings
from mspipe_triton.iteration.scene import Candidates
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime.fusion import enable_fusion
from mspipe_triton.training.staged import Staged
from mspipe_triton.training.way import Watch

MODEL: dict[str, Any] = {"dim": 8, "fanout": 4, "dtype": "float64"}
UNPAIRED: dict[str, Any] = {**MODEL, "pair_features": False}  # saves a third of a short run, which fits their weights
MODELS: dict[str, dict[str, Any]] = {
    "tgn": MODEL,
    "tgn mean": {**UNPAIRED, "aggregator": "mean"},
    "jodie": {"model": "jodie", "dim": 8, "dtype": "float64", "pair_features": False},
    "apan": {**UNPAIRED, "model": "apan", "slots": 3},
    "apan mean": {**UNPAIRED, "model": "apan", "slots": 3, "aggregator": "mean"},
    "tgat": {**UNPAIRED, "model": "tgat", "fanout": 3},
    "tgn of two layers": {**UNPAIRED, "layers": 2, "fanout": 3},
}
Delays = Mapping[str, float]


@dataclass(frozen=True)
class Case:
    """A training on a stream, and its evaluation.

    Args:
        model, train, settings: of the run. size: events per batch.
        epochs: of the training events, or of the first `stop` of them.
        candidates, lagged: of validation. embedded: events whose sources are embedded.
        delays: seconds that each stage sleeps before its work, by rank.
    """

    stream: EventStream
    model: Mapping[str, Any]
    train: Mapping[str, Any]
    size: int = 77
    epochs: int = 1
    stop: int | None = None
    candidates: Candidates = 5
    lagged: bool = False
    embedded: int = 0
    delays: Mapping[int, Delays] = field(default_factory=dict)
    settings: RunSettings | None = None


@dataclass(frozen=True)
class Outcome:
    """Results of a case: losses of all iterations, tensors by name, and the iterations of each staleness.

    `digest` is of all of them, to the bit. `planned` is the largest staleness of a plan.
    """

    losses: list[float]
    tensors: dict[str, torch.Tensor]
    staleness: dict[str, int]
    planned: int
    digest: str


def session(case: Case, ranks: Ranks = ALONE) -> Session:
    """Create the session of a case."""
    train = TrainConfig(batch_size=case.size, **case.train)
    config = RunConfig(model=ModelConfig(**case.model), train=train, settings=case.settings)
    return Session.create(config, case.stream, ranks=ranks)


def carry_out(case: Case, ranks: Ranks = ALONE) -> Outcome:
    """Train, score and rank validation, and embed."""
    run, plans = session(case, ranks), list[Any]()
    way = Staged(run, Watch(replanned=lambda change, *_: plans.append(change.new), patience=30.0))
    slow_down(way, case.delays.get(ranks.rank, {}))
    epochs = [way.train_epoch(number + 1, stop=case.stop) for number in range(case.epochs)]
    staleness: dict[str, int] = {}
    for epoch in epochs:
        for name, count in epoch.facts["staleness_measured"].items():
            staleness[name] = staleness.get(name, 0) + count
    tensors = {f"model.{name}": value.clone() for name, value in run.model.state_dict().items()}
    tensors |= {f"trained.{name}": value.clone() for name, value in run.state.state_dict().items()}
    for number, moments in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{name}.{number}": value for name, value in moments.items()}
    predictions, _ = predict_split(way, "val", candidates=case.candidates, lagged=case.lagged)
    assert predictions.reciprocal_ranks is not None
    tensors |= {"positive": predictions.positive, "negative": predictions.negative}
    tensors |= {"ranks": predictions.reciprocal_ranks}
    tensors |= {f"scored.{name}": value for name, value in run.state.state_dict().items()}
    if case.embedded:
        tensors["embeddings"] = way.embed(case.embedded)
    losses = torch.cat([epoch.losses for epoch in epochs])
    planned = max((plan.staleness for plan in plans), default=0)
    return Outcome(losses.tolist(), tensors, staleness, planned, digest([losses, *tensors.values()]))


def digest(tensors: list[torch.Tensor]) -> str:
    """Return a hash of the tensors' bytes."""
    result = hashlib.sha256()
    for each in tensors:
        result.update(each.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return result.hexdigest()


def in_ranks(cases: list[Case]) -> list[Outcome]:
    """Carry out cases as a rank of the default group; ranks other than the first return no tensors."""
    enable_fusion(False)
    ranks = Ranks.of_group(torch.device("cpu"))
    outcomes = [carry_out(case, ranks) for case in cases]
    if ranks.first:
        return outcomes
    return [Outcome(each.losses, {}, each.staleness, each.planned, each.digest) for each in outcomes]


def slow_down(way: Staged, delays: Delays) -> None:
    """Let every stage sleep before its work."""
    plain = way.stages.training

    def slow(name: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def run(work: Any) -> Any:
            time.sleep(delays[name])
            return function(work)

        return run if delays.get(name) else function

    way.stages.training = lambda: {name: slow(name, stage) for name, stage in plain().items()}  # type: ignore[method-assign]
