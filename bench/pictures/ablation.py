"""Picture of the ablation: every schedule's training loss less that of `serial`, seed 0, from the committed JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.pictures.style import pyplot, save
from bench.report import RESULTS

STREAMS = ("wiki", "uci")
COLOURS = {
    "serial": "#22303c",
    "prefetch": "#7d8fa3",
    "mspipe": "#2f86c9",
    "mspipe, similarity": "#2e8b66",
    "fixed 1": "#f0c36a",
    "fixed 2": "#e09a1a",
    "fixed 4": "#d06a1c",
    "fixed 8": "#c0392b",
    "exact": "#9461b5",
}


def main(out: Annotated[Path, typer.Option(help="An SVG or PNG file.")] = Path("docs/ablation.svg")) -> None:
    """Draw both streams side by side."""
    figure, panels = pyplot("ablation").subplots(1, len(STREAMS), figsize=(9.2, 3.9))
    for axes, name in zip(panels, STREAMS, strict=True):
        report = json.loads((RESULTS / f"ablation-{name}.json").read_text(encoding="utf-8"))
        _curves(axes, report)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, frameon=False)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    save(figure, out)


def _curves(axes: Any, report: dict[str, Any]) -> None:
    """Draw one line per schedule; `exact` and `prefetch` coincide with `serial` and are dashed, so that it shows."""
    epochs, serial = report["stream"]["epochs"], report["schedules"]["serial"]["runs"][0]["curve"]
    for name, row in report["schedules"].items():
        curve = [loss - other for loss, other in zip(row["runs"][0]["curve"], serial, strict=True)]
        places = [(point + 0.5) * epochs / len(curve) for point in range(len(curve))]
        dashes = {"prefetch": (0, (2, 3)), "exact": (2, (4, 4))}.get(name, "-")
        width = 2.4 if name == "serial" else 1.3
        axes.plot(places, curve, label=name, color=COLOURS[name], linestyle=dashes, linewidth=width)
    axes.set_title(f"{report['stream']['name']}, B {report['stream']['batch_size']}", loc="left", fontsize=10)
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss − that of serial")
    axes.set_xlim(0, epochs)
    axes.set_xticks(range(epochs + 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eef2f7")


if __name__ == "__main__":
    typer.run(main)
