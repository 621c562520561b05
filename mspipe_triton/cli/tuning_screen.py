"""Output of `autotune`: a live table of its trials, and a summary of the profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mspipe_triton.cli.console import console
from mspipe_triton.execution import RunSettings
from mspipe_triton.tuning.profile.describe import count_trials, describe_settings
from mspipe_triton.tuning.profile.profile import Profile
from mspipe_triton.tuning.runs.space import settings_at
from mspipe_triton.tuning.study.search import Trial
from mspipe_triton.tuning.study.space import Space
from mspipe_triton.tuning.tuner import TuningObserver

_ROWS = 15
_MARKS = {"cut short": "cut short", "refused": "refused", "failed": "failed"}


class TuningScreen(TuningObserver):
    """One line per phase, and during the search a table of the latest trials and the best one so far."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []
        self.live = Live(console=console, auto_refresh=False, transient=True)

    def phase(self, name: str) -> None:
        """Print the phase on a line of its own."""
        self.close()
        console.print(f"{name[:1].upper()}{name[1:]} ...")

    def start(self, space: Space, shipped: RunSettings) -> None:
        """Open the table."""
        self.shipped = shipped
        console.print(f"Searching {space.size:,} settings, the shipped ones first ...")
        if console.is_terminal:
            self.live.start()

    def trial(self, trial: Trial) -> None:
        """Add a trial to the table."""
        self.trials.append(trial)
        if self.live.is_started:
            self.live.update(trials_table(self.trials[-_ROWS:], self.best, self.shipped), refresh=True)

    def note(self, message: str) -> None:
        """Print a message on a line of its own."""
        console.print(message)

    @property
    def best(self) -> Trial | None:
        """The best trial that was measured to its end."""
        whole = [trial for trial in self.trials if trial.state == "measured"]
        return max(whole, key=lambda trial: trial.score or 0.0, default=None)

    def close(self) -> None:
        """Stop the live table and print the final one."""
        if self.live.is_started:
            self.live.stop()
        if self.trials:
            console.print(trials_table(self.trials, self.best, self.shipped))
            self.trials = []


def trials_table(trials: list[Trial], best: Trial | None, shipped: RunSettings) -> Table:
    """Table of trials with their settings, speed, and ratio to the shipped settings measured beside them."""
    table = Table(title="Trials")
    for name in ("", "settings", "events/s", "to shipped", ""):
        table.add_column(name, justify="left" if name == "settings" else "right", no_wrap=name != "settings")
    for each in trials:
        rate = each.facts.get("events_per_s")
        score = "" if each.score is None else f"{each.score:.2f}"
        state = "best" if each is best else _MARKS.get(each.state, "")
        table.add_row(
            str(each.number), describe_settings(settings_at(shipped, each.point)),
            "" if rate is None else f"{rate:,.0f}", score, state, style="bold" if each is best else None,
        )  # fmt: skip
    return table


def profile_summary(profile: Profile) -> Group:
    """Summary of a profile: its settings, a table of the stages, its gain and its plan.

    The gain and the plan are no caption, since their lines are wider than the table.
    """
    table = Table()
    for name in ("stage", "median ms", "p90 ms"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage, seconds in profile.stage_seconds.items():
        table.add_row(stage, *(f"{seconds[name] * 1e3:.2f}" for name in ("median", "p90")))
    settings, plan = RunSettings(**profile.settings), profile.plan
    return Group(
        Text(
            f"{profile.key.subject['model']['model']} on {profile.dataset}: {describe_settings(settings)}", style="bold"
        ),
        table,
        _gain(profile.search),
        f"plan: an iteration every {plan['period'] * 1e3:.1f} ms, staleness {plan['staleness']}",
    )


def _gain(facts: Mapping[str, Any]) -> str:
    trials = f"{count_trials(facts['trials'])} in {facts['seconds']:.0f} s"
    if facts["gain"] is None:
        return f"{trials}; there was no time left to confirm any of them, so the shipped settings stay"
    shipped = f"{facts['shipped_events_per_s']:,.0f} events/s"
    if facts["best"] == facts["shipped"]:
        return f"{trials}; the shipped settings are the fastest, {shipped}"
    beside = f"{facts['gain']:+.1%} in {facts['rounds']} rounds beside them, noise {facts['noise']:.1%}"
    if facts["shipped_kept"]:
        return f"{trials}; the shipped settings stay, {shipped};\nthe best of the others: {beside}"
    return f"{trials}; {facts['events_per_s']:,.0f} events/s, shipped settings {shipped};\n{beside}"
