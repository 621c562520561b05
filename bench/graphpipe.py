"""Tables of GraphPipe's plans beside chains and beside what was published, from the results of its studies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.tables import markdown

Facts = Mapping[str, Any]
NAMES = {"mmt": "MMT", "dlrm": "DLRM", "candle-uno": "CANDLE-Uno"}
WAYS = {"one": "one device per stage", "any": "any number of devices per stage"}
PLANNERS = {"graphpipe": "GraphPipe", "pipedream": "PipeDream", "piper": "Piper"}


def plans(report: Facts) -> str:
    """Six tables: the case study, the models, branches, micro-batches, search, and Piper's planner."""
    best, same = report["case"]["best"], report["case"]["same_micro_batch"]
    case = [
        (f"{title}, {kind}", *_plan(facts, facts[part]), f"{facts['speedup']:.2f}" if part == "graph" else "1")
        for title, facts in (("best micro-batch", best), ("the same micro-batch", same))
        for part, kind in (("graph", "DAG"), ("sequential", "chain"))
    ]
    parts = [
        "The case study, `two-branch` on 8 devices of 16 GB at mini-batch 128:",
        markdown(("", "ms per sample", "depth", "micro-batch", "in flight", "over the bound", "speedup"), case),
    ]
    for way, title in WAYS.items():
        parts += [f"The published models, {title}; speedups are over the best chain:", _models(report["models"], way)]
    branches = [
        (count, f"{facts['speedup']:.2f}", _parallel(facts), f"{facts['graph']['depth']}", _depth(facts))
        for count, facts in report["branches"].items()
    ]
    sizes = [
        (size, f"{facts['speedup']:.2f}", *(_ms(facts[part]) for part in ("graph", "sequential")))
        for size, facts in report["micro_batches"].items()
    ]
    parts += [
        "CANDLE-Uno without a trunk, with as many branches as devices (published: up to 2 times at 16):",
        markdown(("branches", "speedup", "from parallel stages alone", "depth", "depth of the chain"), branches),
        "MMT on 8 devices at mini-batch 128 with one micro-batch, one device per stage:",
        markdown(("micro-batch", "speedup", "DAG, ms per sample", "chain, ms per sample"), sizes),
        "Search, for any number of devices per stage:",
        _search(report["models"]),
        "Search by planner at one micro-batch, 8 devices, transformer layers in parallel branches:",
        _planners(report["piper"]),
    ]
    return "\n\n".join(parts)


def gap(report: Facts) -> str:
    """The least bottleneck of every family of plans beside that of all valid plans of small random models."""
    head = ("models", "family of plans", "at the optimum", "no plan", "mean, over the optimum", "largest")
    lines = []
    for kind, facts in report["kinds"].items():
        title = "series-parallel" if kind == "series-parallel" else "any graph"
        for family, row in facts["families"].items():
            ratios = (f"{row[key]:.3f}" for key in ("mean_ratio", "largest_ratio"))
            lines.append((title, family, f"{row['at_optimum']:.1%}", f"{row['no_plan']:.1%}", *ratios))
            title = ""
    return markdown(head, lines)


def profile(report: Facts) -> str:
    """The sum of the operators' measured times beside the module's own, by samples per pass."""
    head = ("model", "samples", "operators, ms", "module, ms", "ratio")
    lines = [
        (name, count, *(f"{row[key]:.1f}" for key in ("operators_ms", "module_ms")), f"{row['ratio']:.2f}")
        for name, rows in report["models"].items()
        for count, row in rows.items()
    ]
    return markdown(head, lines)


def _models(models: Facts, way: str) -> str:
    head = (
        "model", "devices", "batch", "speedup", "from parallel stages alone", "ms per sample", "depth", "of the chain",
        "micro-batch", "of the chain", "over the bound",
    )  # fmt: skip
    lines = []
    for name, rows in models.items():
        for count, row in rows.items():
            facts = row[way]
            graph, chain = facts["graph"], facts["sequential"]
            figures = (f"{graph['depth']}", f"{chain['depth']}", f"{graph['micro_batch']}", f"{chain['micro_batch']}")
            speedup = f"{facts['speedup']:.2f}"
            lines.append(
                (NAMES[name], count, f"{row['batch']:,}", speedup, _parallel(facts), _ms(graph), *figures, _over(facts))
            )
    return markdown(head, lines)


def _search(models: Facts) -> str:
    head = ("model", "devices", "DAG, s", "states", "chains, s", "states")
    lines = [
        (
            NAMES[name], count, *(
                text
                for part in ("graph", "sequential")
                for text in (f"{row['any'][part]['search_seconds']:.1f}", f"{row['any'][part]['states']:,}")
            ),
        )
        for name, rows in models.items()
        for count, row in rows.items()
    ]  # fmt: skip
    return markdown(head, lines)


def _planners(rows: list[Facts]) -> str:
    head = ("branches × layers", "downsets", *(f"{title}, s (states)" for title in PLANNERS.values()))
    lines = []
    for row in rows:
        cells = [
            "too many stages" if "reason" in row[name] else f"{row[name]['seconds']:.3f} ({row[name]['states']:,})"
            for name in PLANNERS
        ]
        lines.append((f"{row['branches']} × {row['layers']}", f"{row['downsets']:,}", *cells))
    return markdown(head, lines)


def _plan(facts: Facts, plan: Facts) -> tuple[str, ...]:
    over = plan["time_per_sample"] / facts["lower_bound"]
    return _ms(plan), f"{plan['depth']}", f"{plan['micro_batch']}", f"{plan['in_flight']}", f"{over:.2f}"


def _ms(plan: Facts) -> str:
    return f"{plan['time_per_sample'] * 1e3:.3g}"


def _parallel(facts: Facts) -> str:
    return f"{facts['parallel_speedup']:.2f}"


def _depth(facts: Facts) -> str:
    return f"{facts['sequential']['depth']}"


def _over(facts: Facts) -> str:
    return f"{facts['over_bound']:.2f}"
