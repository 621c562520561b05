"""Pictures of a search, from the committed JSON: Optuna's optimisation history and the settings' importance."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.pictures.style import pyplot, save
from bench.report import RESULTS
from mspipe_triton.execution import RunSettings

_NAMES = [field.name for field in fields(RunSettings)]
RESULT = RESULTS / "tuning.json"


def main(out: Annotated[Path, typer.Option(help="An SVG or PNG file.")] = Path("docs/tuning.svg")) -> None:
    """Draw both side by side."""
    report = json.loads(RESULT.read_text(encoding="utf-8"))
    trials = report["models"]["tgn"]["trials"]
    figure, (history, importance) = pyplot("tuning").subplots(1, 2, figsize=(9.2, 3.9), width_ratios=(3, 2))
    _history(history, trials)
    _importance(importance, importances(trials))
    history.set_title(f"tgn on {report['stream']}: trials beside the shipped settings", loc="left", fontsize=10)
    importance.set_title("what the speed depends on", loc="left", fontsize=10)
    figure.tight_layout()
    save(figure, out)


def importances(trials: list[dict[str, Any]]) -> dict[str, float]:
    """Share of each setting in the difference between the best quarter of the trials and the rest (Optuna's PED-ANOVA).

    A trial that was cut short counts with its score at that point.
    """
    import optuna
    from optuna.distributions import CategoricalDistribution

    scored = [trial for trial in trials if trial["score"] is not None]
    options = {name: {trial["point"][name]: None for trial in scored if name in trial["point"]} for name in _NAMES}
    choices = {name: CategoricalDistribution(tuple(values)) for name, values in options.items() if values}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for trial in scored:
        space = {name: choices[name] for name in trial["point"]}
        study.add_trial(optuna.trial.create_trial(value=trial["score"], params=trial["point"], distributions=space))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _history(axes: Any, trials: list[dict[str, Any]]) -> None:
    """Draw every trial's ratio to the shipped settings, and the best one so far."""
    best, line = 0.0, []
    for trial in trials:
        best = max(best, trial["score"]) if trial["state"] == "measured" else best
        line.append(best)
    for state, mark, colour in (
        ("measured", "o", "#2f86c9"),
        ("cut short", "v", "#e09a1a"),
        ("failed", "x", "#c0392b"),
    ):
        places = [
            number for number, trial in enumerate(trials) if trial["state"] == state and trial["score"] is not None
        ]
        if places:
            axes.plot(
                places, [trials[place]["score"] for place in places], mark, color=colour, label=state, markersize=5
            )
    axes.step(range(len(line)), line, where="post", color="#22303c", linewidth=1.3, label="best so far")
    axes.axhline(1.0, color="#7d8fa3", linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_xlabel("trial")
    axes.set_ylabel("events/s, share of the shipped settings'")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eef2f7")


def _importance(axes: Any, shares: dict[str, float]) -> None:
    names = list(reversed(shares))
    axes.barh(names, [shares[name] for name in names], color="#2e8b66", height=0.6)
    axes.set_xlabel("importance, share")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(left=0)


if __name__ == "__main__":
    typer.run(main)
