"""Tables of scores at the end of `train` and `evaluate`, with lines that explain what they show."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table

from mspipe_triton.cli.console import titled
from mspipe_triton.evaluation.baselines import NAMES

_COLUMNS = {"ap": "AP", "ap_batch_mean": "AP by batch", "auc": "AUC", "mrr": "MRR of {}"}


def result_table(result: dict[str, Any]) -> Group:
    """Table of results at the end of `train`: scores by split, then speed, and what the scores mean."""
    misses = max(map(int, result["staleness_measured"]))
    more = [f"up to {misses} updates missed"] if misses else []
    more += [f"{result['ranks']} ranks"] if result.get("ranks", 1) > 1 else []
    splits = {split: result[split] for split in ("val", "test")}
    return titled(
        f"{result['model']} on {result['dataset']}, best epoch {result['best_epoch']} of {result['epochs']}",
        _scores(splits),
        f"{result['train_events_per_s']:,.0f} training events/s in the fastest epoch, schedule {result['schedule']}",
        *([", ".join(more)] if more else []),
        f"peak memory {result['peak_rss_mb']:,.0f} MiB, compiling {result['compile_seconds']:.1f} s, "
        f"evaluation {result['evaluation_seconds']:.1f} s",
        legend=_legend(splits),
    )


def split_table(split: str, metrics: dict[str, Any], run: str) -> Group:
    """Table of `evaluate`."""
    splits = {split: metrics}
    return titled(f"{run}, best epoch", _scores(splits), legend=_legend(splits))


def _scores(splits: dict[str, dict[str, Any]]) -> Table:
    table = Table()
    table.add_column("")
    for title in _COLUMNS.values():
        table.add_column(title.format(f"{_ranked(splits):,}"), justify="right", no_wrap=True)
    for split, metrics in splits.items():
        rows = {split: metrics}
        if "streaming" in metrics:
            rows[f"{split}, streaming"] = metrics["streaming"]
        if "inductive" in metrics and metrics["inductive"]["events"]:
            rows[f"{split}, unseen ({metrics['inductive']['events']:,})"] = metrics["inductive"]
        if "node" in metrics:
            rows[f"{split}, labels ({metrics['node']['positives']:,})"] = metrics["node"]
        baselines = {label: metrics[name] for name, label in NAMES.items() if name in metrics}
        if baselines:
            rows |= {f"baselines on {split}": {}, **baselines}
        for label, row in rows.items():
            values = (row.get(name) for name in _COLUMNS)
            table.add_row(label, *("" if value is None else f"{value:.4f}" for value in values))
    return table


def _ranked(splits: dict[str, dict[str, Any]]) -> int:
    """Return the number of destinations in a ranking: the event's own and its candidates."""
    return 1 + int(max(metrics["candidates"] for metrics in splits.values()))


def _legend(splits: dict[str, dict[str, Any]]) -> list[str]:
    """Return lines that explain the columns and the rows of a table of scores, those that it has."""
    parts, has = list(splits.values()), {name for metrics in splits.values() for name in metrics}
    lines = [
        "AP, AUC: how well events are told from random ones; chance 0.5, perfect 1.",
        "AP by batch: the mean over batches, as papers report it.",
        f"MRR of {_ranked(splits):,}: mean of 1/rank of the true destination among so many.",
    ]
    lines += [f"candidates of the MRR: {each}" for each in {part["origin"]: 0 for part in parts if "origin" in part}]
    if "streaming" in has:
        lines.append("streaming: with everything earlier than an event, not than its batch.")
    if any("inductive" in part and part["inductive"]["events"] for part in parts):
        lines.append("unseen: events with a node that training never saw.")
    if "node" in has:
        lines.append("labels: how well events with a label are told from those without.")
    if "edgebank" in has:
        lines += [
            "Baselines: EdgeBank expects pairs that have met, ever or in a recent window;",
            "popularity, frequent destinations; pair features alone is a linear model of",
            "the pairs' earlier events. A model is worth its time if it beats them.",
        ]
    return lines
