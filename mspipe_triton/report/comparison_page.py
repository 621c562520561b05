"""The page that compares runs: scores and speed side by side, and the settings that differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mspipe_triton.report.charts import Series, bar_chart, line_chart, variable_of
from mspipe_triton.report.gantt import STAGES
from mspipe_triton.report.run_page import unfinished
from mspipe_triton.report.runs import Run
from mspipe_triton.report.settings import setting_groups
from mspipe_triton.report.tables import Table, fixed, number, score

_DRAWN_BY = ("batch_size", "seed", "protocol")  # settings on which the negatives of an evaluation depend
_SCORES = [
    (f"{title} {metric.upper()}", (split, metric))
    for split, title in (("test", "test"), ("val", "validation"))
    for metric in ("ap", "auc", "mrr")
]


def comparison_page(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what the template `comparison.html` shows of runs."""
    labels = _labels(runs)
    return {
        "title": f"{len(runs)} runs compared",
        "subtitle": " · ".join(dict.fromkeys(f"{run.model} on {run.dataset}" for run in runs)),
        "banners": _banners(runs, labels),
        "runs": [
            {"label": label, "about": f"{run.model} on {run.dataset}", "folder": run.folder, "variable": variable_of(i)}
            for i, (label, run) in enumerate(zip(labels, runs, strict=True))
        ],
        "results": _results(runs, labels),
        "differences": _differences(runs, labels),
        "charts": [chart for chart in _charts(runs, labels) if chart is not None],
    }


def _labels(runs: Sequence[Run]) -> list[str]:
    """Name each run by the last parts of its folder's path, as few as tell the runs apart."""
    parts = [run.folder.resolve().parts for run in runs]
    longest = max(map(len, parts))
    count = next(n for n in range(1, longest + 1) if len({each[-n:] for each in parts}) == len(parts))
    return [str(Path(*each[-count:])) for each in parts]


def _banners(runs: Sequence[Run], labels: Sequence[str]) -> list[str]:
    """Say what makes the runs hard to compare, and what is damaged."""
    banners = []
    if len({(run.record.get("fingerprint"), run.dataset) for run in runs}) > 1:
        data = ", ".join(f"{label} {run.dataset}" for label, run in zip(labels, runs, strict=True))
        banners.append(f"The runs have different data, so their scores do not compare: {data}.")
    elif len({(run.record.get("train_end"), run.record.get("val_end")) for run in runs}) > 1:
        banners.append("The runs split the data in different places, so their scores do not compare.")
    elif differing := _differing(runs):
        verb = "differs" if len(differing) == 1 else "differ"
        banners.append(
            f"Scores are on different negatives ({' and '.join(differing)} {verb}); "
            "compare each with its own baselines."
        )
    kinds = {(run.result["test"].get("candidates"), run.result["test"].get("origin")) for run in runs if run.result}
    if len(kinds) > 1:
        banners.append("The runs rank among different candidates, so their MRRs do not compare.")
    for label, run in zip(labels, runs, strict=True):
        banners += [f"{label}: {line}" for line in (*unfinished(run), *run.faults)]
    return banners


def _differing(runs: Sequence[Run]) -> list[str]:
    """Return the settings on which negatives depend that differ among the runs with scores, as flags without dashes."""
    train = [run.config.get("train", {}) for run in runs if run.result is not None]
    present = {name: {values[name] for values in train if name in values} for name in _DRAWN_BY}
    return [name.replace("_", "-") for name, values in present.items() if len(values) > 1]


def _apart(runs: Sequence[Run]) -> set[str]:
    """Return the titles of scores that do not compare, since the runs' events or negatives differ."""
    scored = [run for run in runs if run.result is not None]
    places = {tuple(run.record.get(name) for name in ("fingerprint", "train_end", "val_end")) for run in scored}
    if len(places) > 1 or _differing(runs):
        return {title for title, _ in _SCORES}
    ranked = {(each["test"].get("candidates"), each["test"].get("origin")) for run in scored if (each := run.result)}
    return {title for title, (_, metric) in _SCORES if metric == "mrr"} if len(ranked) > 1 else set()


def _results(runs: Sequence[Run], labels: Sequence[str]) -> Table:
    """Return scores, speed and memory, a column for each run; the best value of a row is marked with a star."""
    rows: list[tuple[str, Callable[[Run], Any], Callable[[Any], str], int]] = [
        (title, _score_of(split, metric), score, 1) for title, (split, metric) in _SCORES
    ]
    rows += [
        ("best baseline, test AP", lambda run: max(run.baselines("ap").values(), default=None), score, 0),
        ("best epoch", lambda run: run.best_epoch, number, 0),
        ("epochs", lambda run: len(run.epochs), number, 0),
        ("training events/s", lambda run: run.fastest.get("events_per_s"), lambda value: number(value, 3), 1),
        ("training, s", lambda run: sum(epoch.get("seconds", 0.0) for epoch in run.epochs), fixed, 0),
        ("compiling, s", lambda run: sum(epoch.get("compile_seconds", 0.0) for epoch in run.epochs), fixed, 0),
        ("memory of the process, MiB", lambda run: (run.result or {}).get("peak_rss_mb"), _whole, -1),
        ("memory of the device, MiB", lambda run: (run.result or {}).get("peak_device_mb") or None, _whole, -1),
        ("updates missed at most", lambda run: max(map(int, run.staleness), default=None), number, 0),
    ]
    apart = _apart(runs)
    texts = []
    for title, value_of, form, direction in rows:
        values = [value_of(run) for run in runs]
        if all(value is None for value in values):
            continue
        present = [direction * value for value in values if value is not None]
        compared = direction and title not in apart and len(set(present)) > 1
        best = max(present) if compared else None
        marks = ["★ " if value is not None and direction * value == best else "" for value in values]
        texts.append([title, *(mark + form(value) for mark, value in zip(marks, values, strict=True))])
    return Table("Results", ["", *labels], texts, 1, "★ marks the best value of a row.")


def _score_of(split: str, metric: str) -> Callable[[Run], float | None]:
    return lambda run: run.score(split, metric)


def _whole(value: Any) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _differences(runs: Sequence[Run], labels: Sequence[str]) -> Table | None:
    """Return the settings that differ; None if all agree."""
    settings = [
        {(group, each.name): each.value for group, values in setting_groups(run).items() for each in values}
        for run in runs
    ]
    names = dict.fromkeys(name for values in settings for name in values)
    rows = [
        [f"{group}: {name}", *(values.get((group, name), "–") for values in settings)]
        for group, name in names
        if len({values[group, name] for values in settings if (group, name) in values}) > 1
    ]
    return Table("Settings that differ", ["", *labels], rows, 1 + len(runs)) if rows else None


def _charts(runs: Sequence[Run], labels: Sequence[str]) -> list[Any]:
    """Draw loss, validation AP and stage times of all runs."""

    def lines(value_of: Callable[[dict[str, Any]], float | None]) -> list[Series]:
        series = []
        for place, (label, run) in enumerate(zip(labels, runs, strict=True)):
            values = {epoch["epoch"]: value_of(epoch) for epoch in run.epochs}
            present = {epoch: value for epoch, value in values.items() if value is not None}
            series.append(Series(label, present, variable_of(place), place + place // 8))
        return series

    variables = {label: variable_of(place) for place, label in enumerate(labels)}
    pairs = list(zip(labels, runs, strict=True))
    present = {stage: None for run in runs for stage in run.stage_seconds}
    stages = sorted(present, key=lambda stage: list(STAGES).index(stage) if stage in STAGES else len(STAGES))
    times = {
        stage: {label: 1e3 * run.stage_seconds[stage] for label, run in pairs if stage in run.stage_seconds}
        for stage in stages
    }
    speeds = {label: {"": float(run.fastest["events_per_s"])} for label, run in pairs if "events_per_s" in run.fastest}
    caption = "In the fastest epoch of each run."
    return [
        line_chart("loss", "Loss by epoch", lines(lambda epoch: epoch["loss"])),
        line_chart("ap", "Validation AP by epoch", lines(lambda epoch: epoch.get("val", {}).get("ap")), largest=1.0),
        bar_chart("stages", "Time per iteration by stage", times, "ms", variables, caption, "{x:,.3g}"),
        bar_chart("speed", "Training speed", speeds, "events/s", variables, caption, "{x:,.0f}"),
    ]
