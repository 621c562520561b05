"""Output of `autotune`: a live table of its trials, and at the end the shipped settings, the best ones and the gain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mspipe_triton.cli.console import console
from mspipe_triton.cli.transient import Preparing
from mspipe_triton.execution import RunSettings
from mspipe_triton.tuning.profile.describe import count_trials, describe_settings
from mspipe_triton.tuning.profile.profile import Profile
from mspipe_triton.tuning.runs.space import settings_at
from mspipe_triton.tuning.study.search import Trial
from mspipe_triton.tuning.study.space import Space
from mspipe_triton.tuning.tuner import TuningObserver

_ROWS, _BEST = 15, 3
_MARKS = {"cut short": "cut short", "refused": "refused", "failed": "failed"}


class TuningScreen(TuningObserver):
    """One line per phase, and during the search a table of the latest trials and the best one so far."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []
        self.shipped = RunSettings()
        self.preparing = Preparing()
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
        self.preparing.end()
        console.print(message)

    @property
    def best(self) -> Trial | None:
        """The best trial that was measured to its end."""
        return max(self._whole, key=lambda trial: trial.score or 0.0, default=None)

    @property
    def leaders(self) -> list[tuple[RunSettings, Trial]]:
        """The shipped settings and the best others, with their trials, if they were measured to their end."""
        rows = [(settings_at(self.shipped, trial.point), trial) for trial in self._whole]
        others = sorted((row for row in rows if row[0] != self.shipped), key=lambda row: -(row[1].score or 0.0))
        return [row for row in rows if row[0] == self.shipped] + others[:_BEST]

    def close(self) -> None:
        """Remove the live table."""
        self.preparing.end()
        if self.live.is_started:
            self.live.stop()

    @property
    def _whole(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == "measured"]


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


def profile_summary(profile: Profile, leaders: list[tuple[RunSettings, Trial]]) -> Group:
    """Summary of a profile: the shipped settings beside the best ones, gain and noise, and the plan.

    Gain and plan are no caption, since their lines are wider than the table.
    """
    chosen, plan = RunSettings(**profile.settings), profile.plan
    title = f"{profile.key.subject['model']['model']} on {profile.dataset}"
    table = Table(title=title)
    for name in ("settings", "events/s", "to shipped", ""):
        table.add_column(name, justify="left" if name == "settings" else "right", no_wrap=name != "settings")
    for number, (settings, trial) in enumerate(leaders):
        words = describe_settings(settings)
        table.add_row(
            words if number else f"shipped: {words}", f"{trial.facts['events_per_s']:,.0f}", f"{trial.score or 0:.2f}",
            "chosen" if settings == chosen else "", style="bold" if settings == chosen else None,
        )  # fmt: skip
    stages = ", ".join(f"{stage} {seconds['median'] * 1e3:.1f}" for stage, seconds in profile.stage_seconds.items())
    return Group(
        table,
        Text(f"Chosen: {describe_settings(chosen)}", style="bold"),
        *([Text(gain)] if (gain := _gain(profile.search)) else []),
        f"median ms per stage: {stages}",
        f"plan: an iteration every {plan['period'] * 1e3:.1f} ms, staleness {plan['staleness']}",
    )


def _gain(facts: Mapping[str, Any]) -> str:
    """Return the outcome in words; nothing faster than the shipped settings is a result like others."""
    trials = f"{count_trials(facts['trials'])} in {facts['seconds']:.0f} s"
    if facts["best"] == facts["shipped"]:
        return f"{trials}: nothing is faster than the shipped settings"
    if facts["gain"] is None:
        return f"{trials}: no time was left to compare the best with the shipped settings, which stay"
    beside = f"{facts['gain']:+.1%} in {facts['rounds']} rounds side by side, noise {facts['noise']:.1%}"
    if facts["shipped_kept"]:
        outcome = "nothing is faster than the shipped settings by more than the noise"
        return f"{trials}: {outcome}\nbest of the others: {beside}"
    rate, shipped = facts["events_per_s"], facts["shipped_events_per_s"]
    return f"{trials}: {rate:,.0f} events/s, shipped settings {shipped:,.0f}\n{beside}"
