"""Tables of docs/measured/ from committed results: `python -m bench.pages` writes every one of them again."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bench import graphpipe, graphpipe_runs, ranks_runs, ranks_scaling
from bench.aot import issue_slots, rows, versions
from bench.shared_machine import summary as shared_machine
from bench.studies import first_run, models, tuning_in_run
from bench.tables import Table, markdown
from mspipe_triton.evaluation.baselines import NAMES

Report = Mapping[str, Any]
COMMAND = "python -m bench.pages"
STAGES = ("sample", "features", "memory", "train", "update")
# Schedules of the stand-in stages, with the patch of `exact` in milliseconds.
STAND_INS = {
    "serial": "serial", "prefetch": "prefetch", "mspipe": "mspipe", "exact": "exact, patch 2",
    "exact_small": "exact, patch 0.2",
}  # fmt: skip
FEATURES = {
    "amount": "amount, log-normal(3, 2)", "cents": "the same amounts in cents", "signed": "±log-normal(3, 3)",
    "pareto": "Pareto, α 0.7", "shifted": "10⁶ + log-normal(0, 2)", "unix": "Unix time of the event",
    "growing": "amount that grows by e¹⁰ over the stream",
}  # fmt: skip
TIME_UNITS = ("uci", "wiki", "synthetic", "bitcoin", "jitter")  # streams
CALLS = {
    "observe": "observe an event", "rank_exact": "rank, `exact`", "rank_cached": "rank, `cached`",
    "score": "score a pair", "score_100": "score 100 pairs", "embed_100": "embed 100 nodes",
}  # fmt: skip
THREADS = {"threads1": "one training thread", "threads2": "two, as many as cores"}


def periods(report: Report) -> str:
    """Planned and measured periods of the pipeline, one line per vector of stage times and schedule."""
    lines = []
    for cases in report["cases"].values():
        times = ", ".join(f"{cases['serial']['stage_ms'][stage]:g}" for stage in STAGES)
        for name, title in STAND_INS.items():
            case = cases[name]
            figures = (str(case["staleness"]), f"{case['planned_ms']:.1f}", f"{case['measured_ms']:.2f}")
            lines.append((times, title, *figures, f"{case['speed']:.2f}"))
            times = ""
    return markdown(("stage times", "schedule", "s", "planned", "measured", "× serial"), lines)


def ablation(report: Report) -> str:
    """Scores of every schedule on one stream."""
    head = ("schedule", "seeds", "test AP", "points lost", "MRR", "last loss", "staleness", "memory fetch, ms")
    columns = {
        "seeds": "d", "ap": ".4f", "ap_points_lost": ".2f", "mrr": ".4f", "loss": ".4f", "mean_staleness": ".2f",
        "memory_ms": ".2f",
    }  # fmt: skip
    lines = [
        (name, *(format(row[column], form) for column, form in columns.items()))
        for name, row in report["schedules"].items()
    ]
    return markdown(head, lines)


def speeds(report: Report) -> str:
    """Speed of the schedules against serial epochs beside them, one line per stream and number of threads."""
    schedules = ("prefetch", "mspipe", "exact")
    lines = [
        (f"`{stream}.csv`, {title}", *(f"{report[stream][threads][name]['speed_ratio']:.2f}" for name in schedules))
        for stream in ("wiki", "uci")
        for threads, title in THREADS.items()
    ]
    return markdown(("speed against `serial`", *(f"`{name}`" for name in schedules)), lines)


def features(report: Report) -> str:
    """Test AP with raw and scaled columns, one line per column, after one without features."""
    none = report["none"]["ap"]
    lines = [("none", f"{none:.4f}", "", "")]
    for name, column in report["columns"].items():
        raw, scaled = (column[variant]["ap"] for variant in ("raw", "scaled"))
        lines.append((FEATURES[name], f"{raw:.4f}", f"{scaled:.4f}", f"{column['scaled_minus_none']:.2f}"))
    return markdown(("the only edge feature", "AP, raw", "AP, scaled", "scaled − none, points"), lines)


def reading(report: Report) -> str:
    """Time to read a table, one line per kind of ids."""
    head = ("ids", "read 1 million rows, s", "`data info` of 2 million rows, CPU s")
    return markdown(
        head, [(row["ids"], f"{row['seconds']:.2f}", f"{row['info_cpu_seconds']:.1f}") for row in report["reads"]]
    )


def time_units(report: Report) -> str:
    """Test AP of each time encoder on one stream, and its difference to the first."""
    lines = []
    for name, row in report["encoders"].items():
        error = "" if name == "resolution" else f"{row['points']:+.2f} ± {row['standard_error']:.2f}"
        lines.append((f"`{name}`", f"{row['gap']:,.3g}", f"{row['decades']:.1f}", f"{row['ap']:.4f}", error))
    for unit, encoders in report["units"].items():
        row = encoders["resolution"]
        lines.append((f"`resolution`, times in {unit}, seed 0", "", "", f"{row['ap']:.4f}", ""))
    title = f"{report['stream']['name']}, {report['settings']['epochs']} epochs"
    return markdown((title, "g, s", "decades", "AP", "− `resolution`, points"), lines)


def ranking(report: Report) -> str:
    """Time to rank, before and now, one line per model."""
    head = ("model", "before, s", "now, s", "now / before", "equal ranks", "equal logits", "largest difference")
    lines = []
    for name, row in report["models"].items():
        seconds = (f"{statistics.median(row['seconds'][version]):.1f}" for version in ("before", "now"))
        equal = (f"{row[key]:.4%}" for key in ("equal_ranks", "equal_logits"))
        lines.append((f"`{name}`", *seconds, f"{row['ratio']:.2f}", *equal, f"{row['largest_difference']:.1e}"))
    return markdown(head, lines)


def accuracy(report: Report) -> str:
    """Scores of every variant on one stream, means over seeds, with the baselines of the first variant's runs."""
    head = ("settings", "seeds", "B", "epochs", "test AP", "MRR among random", "MRR among all")
    lines = []
    for name, variant in report["variants"].items():
        runs = variant["runs"]
        random = f" of {runs[0]['candidates'] + 1}"
        every = [run["mrr_all"] for run in runs if run["mrr_all"] is not None]
        few = "" if len(every) == len(runs) else " (seed 0)"
        facts = [str(len(runs)), str(runs[0]["batch_size"]), str(runs[0]["epochs"])]
        scores = [_mean(run["ap"] for run in runs), _mean(run["mrr"] for run in runs) + random]
        lines.append((name, *facts, *scores, _mean(every) + few if every else ""))
    runs = next(iter(report["variants"].values()))["runs"]
    for key, label in NAMES.items():
        scores = [run["baselines"][key] for run in runs]
        every = [run["baselines_all"][key] for run in runs if run["baselines_all"]]
        random = _mean(score["mrr"] for score in scores) + " of 200"
        lines.append((label, "", "", "", _mean(score["ap"] for score in scores), random, _mean(every) if every else ""))
    return markdown(head, lines)


def protocol(report: Report) -> str:
    """Scores by TGB's protocol, means over seeds, and those of the baselines."""
    lines = []
    for name, variant in report["variants"].items():
        runs = variant["runs"]
        scores = (_mean(run[key] for run in runs) for key in ("mrr", "mrr_streaming"))
        lines.append((name, str(len(runs)), *scores))
        for key, label in NAMES.items():
            lines.append((label, "", _mean(run["baselines"][key]["mrr"] for run in runs), ""))
    return markdown(("settings", "seeds", "test MRR", "with all that is earlier than the event"), lines)


def _mean(values: Iterable[float]) -> str:
    return f"{statistics.mean(values):.4f}"


def cost(report: Report) -> str:
    """Training speed of settings, and its ratio to another setting's."""
    lines = [
        (name, f"{row['events_per_s']:,.0f}", f"{row['ratio']:.2f} of {row['beside']}" if row["beside"] else "")
        for name, row in report["settings"].items()
    ]
    return markdown(("settings", "training events/s", "ratio"), lines)


def ages(report: Report) -> str:
    """MRR and time of rankings that keep embeddings, by the age that they may reach."""
    head = ("age, at most, as a share of the gap", "MRR", "embeddings computed", "ranking, ms")
    lines = [
        (
            f"{row['share']:g}" if row["share"] else "0, `exact`",
            f"{row['mrr']:.4f}",
            f"{row['computed']:.1%}",
            f"{row['ranking_ms']:.2f}",
        )
        for row in report["mrr"]
    ]
    return markdown(head, lines)


def serving(report: Report) -> str:
    """Three tables of a service: under load, call by call, and events per second in batches."""
    lines = []
    for load in report["load"]:
        refused, failed = (
            sum(count for name, count in load["answers"].items() if re.search(rf"\b{first}\d\d$", name))
            for first in (4, 5)
        )
        latency = load["latency_ms"]
        times = (f"{latency[name][quantile]:.1f}" for name in ("rank", "observe") for quantile in ("p50", "p99"))
        rates = (f"{latency[name]['per_s']:.0f}" for name in ("rank", "observe"))
        lines.append((f"`{load['mode']}`", *rates, *times, f"{refused:,}", f"{failed}"))
    head = ("ranking", "rankings/s", "events/s", "rank p50", "p99", "observe p50", "p99", "refused", "5xx")
    calls = [
        (title, *(f"{report['latency'][name][quantile]:.1f}" for quantile in ("p50", "p99", "max")))
        for name, title in CALLS.items()
    ]
    rates = {(row["batch"], row["form"], row["clients"]): row["events_per_s"] for row in report["throughput"]}
    columns = [(form, clients) for form in ("json", "arrow") for clients in (1, 4)]
    batches = [
        (f"{size:,}", *(f"{rates[size, *column]:,.0f}" for column in columns))
        for size in sorted({row["batch"] for row in report["throughput"]})
    ]
    titles = ("JSON, 1 client", "JSON, 4", "Arrow, 1", "Arrow, 4")
    return "\n\n".join(
        (
            "Ten clients for a minute; times in ms:",
            markdown(head, lines),
            "One client, one call after the other; ms:",
            markdown(("call", "p50", "p99", "max"), calls),
            "Events observed per second, by events in a request:",
            markdown(("events in a request", *titles), batches),
        )
    )


ACCURACY = "docs/measured/accuracy.md"
EVALUATION = "docs/measured/evaluation.md"
SCHEDULES = "docs/measured/schedules.md"
TABLES: list[tuple[Table, Callable[[Report], str]]] = [
    (rows.TABLE, lambda report: rows.table(report["rows"])),
    (versions.TABLE, lambda report: versions.table(report["rows"])),
    (issue_slots.TABLE, lambda report: issue_slots.table(report["kernels"])),
    (models.TABLE, lambda report: models.table(dict(report))),
    (Table(SCHEDULES, "pipeline.json", COMMAND), periods),
    (Table(SCHEDULES, "ablation-wiki.json", COMMAND), ablation),
    (Table(SCHEDULES, "ablation-uci.json", COMMAND), ablation),
    (Table(SCHEDULES, "schedule-speed.json", COMMAND), speeds),
    (Table("docs/measured/features.md", "features.json", COMMAND), features),
    (Table("docs/measured/features.md", "reading.json", COMMAND), reading),
    *((Table(EVALUATION, f"time-unit-{name}.json", COMMAND), time_units) for name in TIME_UNITS),
    (Table(EVALUATION, "ranking.json", COMMAND), ranking),
    *((Table(ACCURACY, f"accuracy-{name}.json", COMMAND), accuracy) for name in ("wiki", "uci")),
    (Table(ACCURACY, "accuracy-tgbl-wiki.json", COMMAND), protocol),
    (Table(ACCURACY, "ranking-cost.json", COMMAND), cost),
    (Table("docs/measured/first-run.md", "first-run.json", COMMAND), first_run.table),
    (Table("docs/measured/tuning.md", "tuning-in-run.json", COMMAND), tuning_in_run.table),
    (Table("docs/measured/predictor.md", "predictor-wiki.json", COMMAND), ages),
    (Table("docs/measured/serving.md", "serving-wiki.json", COMMAND), serving),
    (Table("docs/measured/ranks.md", "ranks-equal.json", COMMAND), ranks_runs.equal),
    (Table("docs/measured/ranks.md", "ranks-sleeping.json", COMMAND), ranks_runs.sleeping),
    (Table("docs/measured/ranks.md", "ranks-speed.json", COMMAND), ranks_runs.speed),
    (Table("docs/measured/ranks.md", "ranks-deaths.json", COMMAND), ranks_runs.deaths),
    (Table("docs/measured/graphpipe.md", "graphpipe.json", COMMAND), graphpipe.plans),
    (Table("docs/measured/graphpipe.md", "graphpipe-gap.json", COMMAND), graphpipe.gap),
    (Table("docs/measured/graphpipe.md", "graphpipe-profile.json", COMMAND), graphpipe.profile),
    (Table("docs/measured/graphpipe-run.md", "graphpipe-equal.json", COMMAND), graphpipe_runs.equal),
    (Table("docs/measured/graphpipe-run.md", "graphpipe-run.json", COMMAND), graphpipe_runs.run),
    (Table("docs/measured/graphpipe-run.md", "graphpipe-again.json", COMMAND), graphpipe_runs.again),
    (Table("docs/measured/graphpipe-run.md", "graphpipe-typed.json", COMMAND), graphpipe_runs.typed),
    (Table("docs/measured/graphpipe-run.md", "graphpipe-deaths.json", COMMAND), graphpipe_runs.deaths),
    (Table("docs/measured/ranks-scaling.md", "ranks-scaling.json", COMMAND), ranks_scaling.tables),
    (Table("docs/concepts/ranks.md", "ranks-scaling.json", COMMAND), ranks_scaling.paper),
    (Table("docs/measured/shared-machine.md", "shared-machine.json", COMMAND), shared_machine.table),
]


def rendered(table: Table, render: Callable[[Report], str]) -> str:
    """The page with a table made from its result."""
    return table.page_with(render(json.loads(table.result_path.read_text(encoding="utf-8"))))


def main() -> None:
    """Write all tables."""
    for table, render in TABLES:
        table.path.write_text(rendered(table, render), encoding="utf-8")
        print(f"wrote the table of {table.result} in {table.page}")


if __name__ == "__main__":
    main()
