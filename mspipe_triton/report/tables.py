"""Tables of a run's page: scores, epochs, changes while training, settings and environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mspipe_triton.evaluation.baselines import NAMES
from mspipe_triton.report.runs import Run

_ROWS = 200  # that a table of a page has at most
_EXTRAS = {"lr": "learning rate", "grad_norm": "gradient norm"}  # metrics that not every run has


@dataclass(frozen=True)
class Table:
    """A table: columns, of which the first `names` hold text, and rows of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1
    caption: str = ""


def number(value: Any, digits: int = 4) -> str:
    """Format a value: thousands, significant digits of a float, yes and no, and a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:,.{digits}g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def fixed(value: float | None) -> str:
    """Format seconds or milliseconds with two decimals, and None as a dash."""
    return "–" if value is None else f"{value:,.2f}"


def score(value: Any) -> str:
    """Format a score."""
    return f"{value:.4f}" if isinstance(value, int | float) else "–"


def counted(count: int, noun: str) -> str:
    """Number and noun, as in "1 iteration" or "2 iterations"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def score_table(run: Run) -> Table | None:
    """Scores of the best epoch by split, and those of the baselines; None for an unfinished run."""
    if run.result is None:
        return None
    rows = []
    for split, title in (("val", "validation"), ("test", "test")):
        metrics = run.result[split]
        parts = {title: metrics}
        for part, label in (("streaming", "streaming"), ("inductive", "unseen nodes"), ("node", "labels")):
            if metrics.get(part) and metrics[part].get("events", 1):
                parts[f"{title}, {label}"] = metrics[part]
        if split == "test":
            parts |= {f"{label} (baseline)": metrics[key] for key, label in NAMES.items() if key in metrics}
        rows += [[label, *(score(part.get(key)) for key in ("ap", "auc", "mrr"))] for label, part in parts.items()]
    candidates = run.result["test"].get("candidates")
    mrr = "MRR" if candidates is None else f"MRR of {candidates + 1:,}"
    return Table("Scores of the best epoch", ["", "AP", "AUC", mrr], rows)


def epoch_table(run: Run) -> Table | None:
    """Metrics of each epoch; None if no epoch is complete."""
    if not run.epochs:
        return None
    extras = {name: label for name, label in _EXTRAS.items() if any(name in epoch for epoch in run.epochs)}
    rows = []
    for epoch in run.epochs:
        scores = epoch.get("val", {})
        texts = [score(epoch["loss"]), score(scores.get("ap")), score(scores.get("auc"))]
        texts += [*(number(epoch.get(name)) for name in extras), number(epoch.get("events_per_s"), 3)]
        seconds = (epoch.get(name) for name in ("seconds", "compile_seconds", "eval_seconds"))
        rows.append([str(epoch["epoch"]), *texts, *map(fixed, seconds)])
    columns = ["epoch", "loss", "val AP", "val AUC", *extras.values()]
    return _last("Epochs", [*columns, "events/s", "training s", "compiling s", "evaluation s"], rows)


def plan_table(run: Run) -> Table | None:
    """Changes of the pipeline's plan; None if the run had no pipeline to plan."""
    changes = run.events.get("plan", [])
    rows = []
    for change in changes:
        new = change.get("new") or {}
        place = [number(change.get("epoch")), number(change.get("iteration"))]
        period = new.get("period")
        milliseconds = None if period is None else 1e3 * float(period)
        rows.append([*place, change.get("stage") or "first plan", fixed(milliseconds), number(new.get("staleness"))])
    columns = ["epoch", "iteration", "cause", "planned ms", "updates missed"]
    caption = (
        "The cause is the stage whose time has changed. Planned ms is the time from one iteration to the next; the "
        "first plan assumes the times of stages if no profile has them."
    )
    return _last("Plan changes", columns, rows, 3, caption) if rows else None


def event_table(title: str, entries: Sequence[Mapping[str, Any]], caption: str = "") -> Table | None:
    """Events of one kind, whatever they hold, with a column for each of their values; None if there are none."""
    rows = [_flat({key: value for key, value in entry.items() if key != "event"}) for entry in entries]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    if not keys:
        return None
    texts = [[number(row[key]) if key in row else "" for key in keys] for row in rows]
    return _last(title, [key.replace("_", " ") for key in keys], texts, len(keys), caption)


def _last(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1, caption: str = ""
) -> Table:
    """Make a table of the last rows, if there are too many for a page."""
    if len(rows) > _ROWS:
        caption = f"The last {_ROWS} of {len(rows):,}; metrics.jsonl has all. {caption}".strip()
    return Table(title, columns, rows[-_ROWS:], names, caption)


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of an entry, those of inner objects too, and lists as text."""
    values: dict[str, Any] = {}
    for key, value in entry.items():
        if isinstance(value, Mapping):
            values |= {f"{key} {name}": inner for name, inner in _flat(value).items()}
        else:
            values[key] = ", ".join(map(number, value)) if isinstance(value, list) else value
    return values


def stage_table(run: Run) -> Table | None:
    """Milliseconds of each stage by epoch; None for runs of one epoch, which the chart shows whole."""
    stages = list(dict.fromkeys(stage for epoch in run.epochs for stage in epoch.get("stage_seconds", {})))
    if len(run.epochs) < 2 or not stages:
        return None
    rows = []
    for epoch in run.epochs:
        seconds = epoch.get("stage_seconds", {})
        times = [fixed(1e3 * seconds[stage] if stage in seconds else None) for stage in stages]
        rows.append([str(epoch["epoch"]), *times])
    return _last("Stage times by epoch, ms per iteration", ["epoch", *stages], rows)


def environment_facts(run: Run) -> dict[str, str]:
    """Device, processes, memory and versions of a run."""
    result = run.result or {}
    facts = {
        "device": run.config.get("train", {}).get("device") if run.result is None else result.get("device"),
        "processes": result.get("ranks"),
        "most memory of the process": _mebibytes(result.get("peak_rss_mb")),
        "most memory of the device": _mebibytes(result.get("peak_device_mb")),
        **{name.replace("_", "-"): version for name, version in (result.get("versions") or {}).items()},
    }
    return _shown(facts.items())


def data_facts(run: Run) -> dict[str, str]:
    """Size and origin of the events."""
    record, split = run.record, (run.result or {}).get("split_events", {})
    facts = {
        "name": run.dataset,
        "events": record.get("events"),
        "nodes": record.get("nodes"),
        "events of an earlier run": record.get("history") or None,
        "trained, validated, tested": " / ".join(number(count) for count in split.values()) or None,
        "features per event": record.get("dim_edge"),
        "features per node": record.get("dim_node"),
        "form": record.get("format") or None,
        "fingerprint": record.get("fingerprint"),
    }
    return _shown(facts.items())


def _mebibytes(size: float | None) -> str | None:
    return f"{size:,.0f} MiB" if size else None


def _shown(facts: Iterable[tuple[str, Any]]) -> dict[str, str]:
    return {name: number(value) for name, value in facts if value is not None}
