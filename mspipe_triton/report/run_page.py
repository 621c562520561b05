"""The page about one run: its figures, charts and tables."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from mspipe_triton.errors import command
from mspipe_triton.report.charts import Chart, Series, bar_chart, line_chart
from mspipe_triton.report.gantt import gantt, stage_variable
from mspipe_triton.report.runs import Run
from mspipe_triton.report.settings import commands, setting_groups
from mspipe_triton.report.tables import (
    counted,
    data_facts,
    environment_facts,
    epoch_table,
    event_table,
    number,
    plan_table,
    score,
    score_table,
    stage_table,
)
from mspipe_triton.training.run_folder import RunFolder

_SCORES = {"ap": "AP", "auc": "AUC", "mrr": "MRR"}


def run_page(run: Run) -> dict[str, Any]:
    """Return what the template `run.html` shows of a run."""
    charts = {
        "loss": line_chart("loss", "Loss by epoch", [Series("training loss", _by_epoch(run, "loss"))]),
        "ap": _score_chart(run, "ap", _validation(run, "ap")),
        "mrr": _score_chart(run, "mrr", {}),
        "rate": _rate_chart(run),
        "stages": _stage_chart(run),
        "staleness": _staleness_chart(run),
        "timeline": None if run.timeline is None else gantt("timeline", run.timeline),
    }
    return {
        "title": f"{run.model} on {run.dataset}",
        "subtitle": _subtitle(run),
        "banners": [*unfinished(run), *run.faults],
        "figures": _figures(run),
        "notes": [] if run.result is None else run.result.get("notes", []),
        "charts": charts,
        "no_timeline": _no_timeline(run),
        "scores": score_table(run),
        "epochs": epoch_table(run),
        "stage_times": stage_table(run),
        "plans": plan_table(run),
        "events": _events(run),
        "tuning": _tuning(run),
        "facts": {"Environment": environment_facts(run), "Data": data_facts(run)},
        "settings": setting_groups(run),
        "commands": commands(run),
        "fingerprint": run.record.get("fingerprint"),
        "from_python": run.config.get("data", {}).get("path") == "",
    }


def unfinished(run: Run) -> list[str]:
    """Say that training has not finished, or goes on since the result was written."""
    way = f"{command('train', '--out', run.folder, '--resume')} continues it"
    if not RunFolder(run.folder).last.exists():
        way = "the run's first command starts it again"
    if run.result is None:
        return [
            f"Training has not finished: {len(run.epochs)} of {counted(run.planned_epochs, 'epoch')} so far; {way}."
        ]
    epochs = run.result["epochs"]
    if len(run.epochs) > epochs:
        return [f"The scores are those after {counted(epochs, 'epoch')}, and training has gone on since; {way}."]
    return []


def _subtitle(run: Run) -> str:
    parts = [f"{run.record['events']:,} events among {run.record['nodes']:,} nodes"] if "nodes" in run.record else []
    parts += [run.schedule if run.schedule == "resident" else f"schedule {run.schedule}"]
    return " · ".join([*parts, str(run.folder)])


def _figures(run: Run) -> list[tuple[str, str, str]]:
    """Return the large figures: label, value, and a remark."""
    best = run.best_epoch
    if run.result is None:
        scores = _validation(run, "ap"), _validation(run, "auc")
        figures = [
            (f"Validation {label}", score(None if best is None else values.get(best)), "best epoch so far")
            for label, values in zip(("AP", "AUC"), scores, strict=True)
        ]
    else:
        best = run.result["best_epoch"]
        figures = []
        for metric, label in _SCORES.items():
            levels = run.baselines(metric)
            name = max(levels, key=levels.__getitem__, default="")
            remark = f"best baseline {levels[name]:.4f}, {name}" if name else ""
            candidates = run.result["test"].get("candidates")
            of = f" of {candidates + 1:,}" if metric == "mrr" and candidates else ""
            figures.append((f"Test {label}{of}", score(run.score("test", metric)), remark))
    speed = run.fastest.get("events_per_s")
    total = counted(len(run.epochs), "epoch")
    early = ", stopped early" if run.result is not None and run.result.get("stopped_early") else ""
    return [
        *figures,
        ("Best epoch", number(best), f"of {total}{early}, by validation AP"),
        ("Training speed", number(speed, 3), "events/s in the fastest epoch"),
    ]


def _by_epoch(run: Run, name: str) -> dict[int, float]:
    return {epoch["epoch"]: float(epoch[name]) for epoch in run.epochs if epoch.get(name) is not None}


def _validation(run: Run, metric: str) -> dict[int, float]:
    return {epoch["epoch"]: epoch["val"][metric] for epoch in run.epochs if metric in epoch.get("val", {})}


def _score_chart(run: Run, metric: str, validation: Mapping[int, float]) -> Chart | None:
    """Draw a score of validation by epoch, that of the best epoch on test, and those of the baselines on test."""
    label, series = _SCORES[metric], []
    best = 0 if run.result is None else run.result["best_epoch"]
    points = {split: run.score(split, metric) for split in ("val", "test")}
    if validation:
        series.append(Series("validation", validation))
    elif points["val"] is not None:
        series.append(Series("validation, best epoch", {best: points["val"]}))
    if points["test"] is not None:
        series.append(Series("test, best epoch", {best: points["test"]}, "s2", marker="D"))
    levels = {f"{name}, test": value for name, value in run.baselines(metric).items()}
    caption = "Dashed and dotted lines are baselines on the test events." if levels else ""
    if metric == "mrr":
        if not levels:  # points alone, which the table has
            return None
        caption = f"The MRR is computed once, for the best epoch. {caption}"
    return line_chart(
        metric, f"{label} by epoch" if validation else label, series, levels, caption, len(run.epochs), largest=1.0
    )


def _rate_chart(run: Run) -> Chart | None:
    """Draw the learning rate by epoch, if it changes."""
    rates = _by_epoch(run, "lr")
    series = [Series("learning rate", rates, "s2")] if len(set(rates.values())) > 1 else []
    return line_chart("lr", "Learning rate by epoch", series, form="{x:.3g}")


def _stage_chart(run: Run) -> Chart | None:
    times = {stage: {"ms": 1e3 * seconds} for stage, seconds in run.stage_seconds.items() if isfinite(seconds)}
    total = sum(values["ms"] for values in times.values())
    caption = "In the fastest epoch"
    if len(times) > 1:
        caption += f"; {total:.1f} ms if one stage follows the other"
    plan = None if run.result is None else run.result.get("plan")
    caption += f", and planned to be one iteration every {1e3 * plan['period']:.1f} ms." if plan else "."
    variables = {stage: stage_variable(stage) for stage in times}
    return bar_chart("stages", "Time per iteration by stage", times, "ms", variables, caption, "{x:,.3g}")


def _staleness_chart(run: Run) -> Chart | None:
    counts = {f"{misses} missed": {"iterations": float(count)} for misses, count in run.staleness.items()}
    plan = None if run.result is None else run.result.get("plan")
    caption = "Updates of node memory that an iteration did not see yet."
    if plan:
        patch = ", which the patch adds" if run.schedule == "exact" and plan["staleness"] else ""
        caption += f" The last plan lets the memory fetch miss {plan['staleness'] or 'none'}{patch}."
    variables = dict.fromkeys(counts, "s1")
    return bar_chart("staleness", "Staleness measured", counts, "iterations", variables, caption, "{x:,.0f}")


def _no_timeline(run: Run) -> str:
    """Say why there is no timeline."""
    if run.schedule == "resident":
        return "A resident run computes whole iterations on the device; it has no stages to draw."
    if not run.epochs:
        return "No epoch is complete yet."
    return "The run folder has no timeline.json and no trace.json; runs write the first since they record it."


def _events(run: Run) -> list[Any]:
    """Return a table for each kind of event that the run recorded, except plans."""
    titles = {"threads": "Changes of threads", "trial": "Settings tried while training"}
    others = {kind: f"Event: {kind}" for kind in run.events if kind not in (*titles, "plan")}
    tables = [event_table(title, run.events.get(kind, [])) for kind, title in {**titles, **others}.items()]
    return [table for table in tables if table is not None]


def _tuning(run: Run) -> str:
    """Say where the run's execution settings come from, if it tried none itself."""
    tuning = None if run.result is None else run.result.get("tuning")
    if tuning and tuning.get("profile"):
        return f"The settings are those of the tuning profile {tuning['profile']}."
    return "" if "trial" in run.events else "The run tried no other settings."
