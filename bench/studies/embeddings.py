"""Embeddings of a trained TGN beside a known structure: the ten groups of items of the built-in stream."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from bench.report import command, header, show, write
from mspipe_triton import EventStream, ModelConfig, RunConfig, TrainConfig, load, train
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream

console = Console(stderr=True, highlight=False)
GROUPS = 10
VARIANTS = {  # width of the edge features, and features of pairs
    "features": (2, False),
    "features and pairs": (2, True),
    "nothing": (0, False),
    "pairs": (0, True),
}


def main(
    epochs: int = 8,
    seeds: Annotated[int, typer.Option(help="Seeds from 0 on.")] = 3,
    dim: int = 32,
    batch_size: int = 600,
    threads: int = 1,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Train TGN with and without edge features and features of pairs, and find nearest neighbours of its embeddings."""
    torch.set_num_threads(threads)
    settings: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "threads": threads, "device": "cpu"}
    settings |= {"schedule": "serial", "deterministic": True, "negatives": 1}
    rows, variants, points = {}, {}, []
    for name, (width, pairs) in VARIANTS.items():
        stream = synthetic_stream(SyntheticConfig(edge_features=width))
        items, users = group_of_items(stream), group_of_users(stream)
        runs = []
        for seed in range(seeds):
            model = ModelConfig("tgn", dim=dim, pair_features=pairs)
            config = RunConfig(model=model, train=TrainConfig(seed=seed, **settings))
            with tempfile.TemporaryDirectory() as folder:
                ap = train(config, stream, out=f"{folder}/run")["test"]["ap"]
                embeddings = torch.from_numpy(load(f"{folder}/run", stream=stream).embed()).double()
            runs.append({"ap": ap, "items": same_group(embeddings, items), "users": same_group(embeddings, users)})
            console.print(f"{name}, seed {seed}: {runs[-1]}")
            if name == "features" and seed == 0:
                rows, points = beside(stream, items, users), points_of(stream, items, embeddings)
        mean = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
        variants[name] = {**mean, "runs": runs}
    report = {
        **header(command("bench.studies.embeddings"), threads),
        "stream": {"name": "synthetic", "events": len(stream), "items": len(items), "users": len(users)},
        "settings": {"model": "tgn", "dim": dim, **settings},
        **rows,
        "variants": variants,
        "points": points,
    }
    if out is not None:
        write(report, out, "points")
    show({key: value for key, value in report.items() if key != "points"}, None)


def group_of_items(stream: EventStream) -> dict[int, int]:
    """Return the group of every item with an event; items of a group have consecutive numbers."""
    first, count = SyntheticConfig().users, SyntheticConfig().items // GROUPS
    return {item: (item - first) // count for item in stream.dst.unique().tolist()}


def group_of_users(stream: EventStream) -> dict[int, int]:
    """Return the group that every user with an event bought from last, which is the taste at that time."""
    items = group_of_items(stream)
    return {user: items[item] for user, item in zip(stream.src.tolist(), stream.dst.tolist(), strict=True)}


def same_group(rows: torch.Tensor, groups: dict[int, int]) -> float:
    """Compute the share of nodes whose nearest neighbour by cosine, among these nodes, is of the same group.

    Args:
        rows: [N, D], a row per node of the stream. groups: the group of each node that takes part.
    """
    nodes, labels = torch.tensor(list(groups)), torch.tensor(list(groups.values()))
    unit = torch.nn.functional.normalize(rows[nodes], dim=1)
    likeness = (unit @ unit.T).fill_diagonal_(-torch.inf)
    return float((labels[likeness.argmax(1)] == labels).double().mean())


def chance(groups: dict[int, int]) -> float:
    """Compute the probability that two different nodes, at random, are of the same group."""
    counts = torch.bincount(torch.tensor(list(groups.values()))).double()
    return float((counts * (counts - 1)).sum() / (len(groups) * (len(groups) - 1)))


def beside(stream: EventStream, items: dict[int, int], users: dict[int, int]) -> dict[str, Any]:
    """Compute the same share at random, for the features of each node's last event, and for their mean over events."""
    last, mean = last_features(stream), mean_features(stream)
    return {
        name: {"items": score(items), "users": score(users)}
        for name, score in (
            ("chance", chance),
            ("last_event", lambda groups: same_group(last, groups)),
            ("mean_of_events", lambda groups: same_group(mean, groups)),
        )
    }


def last_features(stream: EventStream) -> torch.Tensor:
    """Return the features [N, F] of each node's last event."""
    assert stream.edge_features is not None
    rows, table = stream.edge_features.double(), torch.zeros(stream.num_nodes, stream.dim_edge, dtype=torch.float64)
    for event, ends in enumerate(zip(stream.src.tolist(), stream.dst.tolist(), strict=True)):
        table[list(ends)] = rows[event]
    return table


def mean_features(stream: EventStream) -> torch.Tensor:
    """Return the mean [N, F] of the features of each node's events."""
    assert stream.edge_features is not None
    rows, table = stream.edge_features.double(), torch.zeros(stream.num_nodes, stream.dim_edge, dtype=torch.float64)
    ends = torch.cat([stream.src, stream.dst])
    table.index_add_(0, ends, rows.repeat(2, 1))
    return table / torch.bincount(ends, minlength=stream.num_nodes).clamp(min=1).unsqueeze(1)


def points_of(stream: EventStream, items: dict[int, int], embeddings: torch.Tensor) -> list[list[float]]:
    """Return per item its group, the two features of its last event, and its place in a plane of the embeddings."""
    nodes, groups = torch.tensor(list(items)), torch.tensor(list(items.values()))
    columns = (groups.unsqueeze(1), last_features(stream)[nodes], plane(embeddings[nodes]))
    return [[int(group), *(round(value, 3) for value in rest)] for group, *rest in torch.cat(columns, 1).tolist()]


def plane(rows: torch.Tensor) -> torch.Tensor:
    """Project rows [M, D] on their first two principal components [M, 2], each with its largest weight positive."""
    centred = rows - rows.mean(0)
    _, _, components = torch.linalg.svd(centred, full_matrices=False)
    axes = components[:2]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return centred @ (axes * largest.sign()).T


if __name__ == "__main__":
    typer.run(main)
