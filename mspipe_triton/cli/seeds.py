"""Training with several seeds from the command line: what is refused, a line per run, and the table of means."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mspipe_triton.errors import ConfigError, TrainingError, command

if TYPE_CHECKING:
    from rich.console import Group

    from mspipe_triton.config import RunConfig
    from mspipe_triton.training.entry import Entry
    from mspipe_triton.training.run_folder import RunFolder

_COLUMNS = {"ap": "AP", "auc": "AUC", "mrr": "MRR"}


def check_seeds(seeds: int, nproc: int | None) -> None:
    """Refuse a number of seeds, or several processes.

    Raises:
        ConfigError: they are not for runs in sequence.
    """
    if seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, not {seeds}")
    if nproc not in (None, 1) or "RANK" in os.environ:
        raise ConfigError(
            f"--seeds {seeds} trains one run after the other in one process; omit --nproc and torchrun, or start a run "
            "per seed with --seed"
        )


def folder_to_resume(out: str | None, seeds: int | None) -> RunFolder:
    """Return the folder of the run to resume, or of the first of several.

    Raises:
        RunFolderError: there is none.
    """
    from mspipe_triton.training.run_folder import RunFolder

    if seeds is None:
        return RunFolder.to_resume(out)
    from mspipe_triton.training.seeds import first_run

    return first_run(out)


def train_all(
    config: RunConfig, seeds: int, out: str | None, resume: bool, trace: bool, as_json: bool,
    carry_out: Callable[[Entry], dict[str, Any]],
) -> None:  # fmt: skip
    """Train with each seed, print the table of means, and the summary to stdout if `as_json`.

    Args:
        carry_out: carries out the run of an entry, with its screen.
    """
    from mspipe_triton.cli.console import console
    from mspipe_triton.training.seeds import enter_seeds

    runs = enter_seeds(config, seeds, None, out, resume, trace)

    def announced(entry: Entry) -> dict[str, Any]:
        seed = entry.config.train.seed
        console.print(f"Seed {seed}, run {seed - config.train.seed + 1} of {seeds}")
        return carry_out(entry)

    for note in runs.notes:
        console.print(note)
    if runs.results:
        console.print(f"{len(runs.results)} of {seeds} runs are finished already")
    try:
        summary = runs.carry_out(announced)
    except KeyboardInterrupt:
        way = command("train", "--out", runs.path, "--seeds", seeds, "--resume")
        raise TrainingError(f"interrupted; to continue, use {way}") from None
    console.print(seeds_table(summary))
    if as_json:
        print(json.dumps(summary))


def seeds_table(summary: Mapping[str, Any]) -> Group:
    """Table of means and standard deviations over seeds, and of each run's scores above them."""
    from rich.table import Table

    from mspipe_triton.cli.console import titled
    from mspipe_triton.evaluation.baselines import NAMES

    mean, deviation, results = summary["mean"], summary["deviation"], summary["seeds"]
    speed, spread = mean["train_events_per_s"], deviation["train_events_per_s"]
    table = Table()
    table.add_column("")
    for name in _COLUMNS.values():
        table.add_column(name, justify="right")
    for result in results:
        scores = (result["test"].get(name) for name in _COLUMNS)
        table.add_row(f"test, seed {result['seed']}", *("" if each is None else f"{each:.4f}" for each in scores))
    table.add_section()
    places: dict[str, tuple[str, ...]] = {"val": ("val",), "test": ("test",)}
    parts = {"inductive": "test, unseen", "node": "test, labels", **NAMES}
    places |= {label: ("test", name) for name, label in parts.items()}
    for label, place in places.items():
        means, spreads = _at(mean, place), _at(deviation, place)
        cells = [f"{means[name]:.4f} ± {spreads[name]:.4f}" if name in means else "" for name in _COLUMNS]
        if any(cells):
            table.add_row(label, *cells)
    return titled(
        f"{results[0]['model']} on {results[0]['dataset']}, {len(results)} seeds",
        table,
        f"mean ± sample standard deviation; {speed:,.0f} ± {spread:,.0f} training events/s",
    )


def _at(facts: Mapping[str, Any], place: tuple[str, ...]) -> Mapping[str, Any]:
    """Return the dictionary at a place of nested ones, empty if there is none."""
    for name in place:
        facts = facts.get(name, {})
    return facts
