"""Training with several seeds: runs one after the other on the same events, and the spread of their scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mspipe_triton.config import RunConfig
from mspipe_triton.config_file import load_config
from mspipe_triton.data.events import EventStream
from mspipe_triton.errors import ConfigError, RunFolderError
from mspipe_triton.files import atomic_file
from mspipe_triton.training.entry import Entry, enter
from mspipe_triton.training.observer import Observer
from mspipe_triton.training.ranks import group_ranks
from mspipe_triton.training.run_folder import RunFolder
from mspipe_triton.training.trainer import run

_SCORES = ("ap", "ap_batch_mean", "auc", "mrr")


@dataclass(frozen=True)
class SeedRuns:
    """The runs of several seeds, by seed.

    Args:
        path: the folder that holds their folders.
        entries: runs to carry out.
        results: results of the runs that are finished.
        notes: messages for the user, which all runs share.
    """

    path: Path
    entries: Mapping[int, Entry]
    results: Mapping[int, dict[str, Any]]
    notes: Sequence[str]

    def carry_out(self, carry_out: Callable[[Entry], dict[str, Any]]) -> dict[str, Any]:
        """Carry out the runs in the order of their seeds, and write and return their summary; see `train_seeds`."""
        results = {**self.results}
        for seed, entry in self.entries.items():
            results[seed] = carry_out(entry)
        summary = summarise([results[seed] for seed in sorted(results)])
        with atomic_file(self.path / "seeds.json") as temporary:
            temporary.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        return summary


def train_seeds(
    config: RunConfig | None = None,
    seeds: int = 5,
    stream: EventStream | None = None,
    out: str | None = None,
    resume: bool = False,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Train with several seeds, one run after the other, and compute the mean and spread of their scores.

    Args:
        config: the settings of all runs; `config.train.seed` is the first seed. The defaults train TGN on the built-in
            stream, or resume runs as they are.
        seeds: number of runs, with seeds that follow each other.
        stream: the events; None reads them from `config.data`, once for all runs.
        out: the folder in which each run has a folder, as in `seed-0`; by default runs/DATASET-MODEL-N with the first
            free N.
        resume: train in `out` what is not finished there.
        observer: called with the progress of each run.

    Returns:
        The content of `seeds.json` in that folder: "seeds", the results of all runs; "mean" and "deviation", which is
        the sample standard deviation, of the scores in "val" and "test" and of "train_events_per_s".

    Raises:
        InputError: data, settings or a folder are not usable; nothing has been written then.
        TrainingError: a loss was not finite; the runs of earlier seeds are complete.
    """
    if config is None:
        config = load_config(first_run(out).config) if resume else RunConfig()
    return enter_seeds(config, seeds, stream, out, resume).carry_out(lambda entry: run(entry, observer or Observer()))


def enter_seeds(
    config: RunConfig, seeds: int, stream: EventStream | None = None, out: str | None = None, resume: bool = False,
    trace: bool = False,
) -> SeedRuns:  # fmt: skip
    """Check and load everything that the runs need, without writing anything; see `train_seeds` and `enter`."""
    if type(seeds) is not int or seeds < 2:
        raise ConfigError(f"seeds must be a whole number of at least 2, not {seeds!r}; omit it for one run")
    if not group_ranks().alone:
        raise ConfigError("several seeds train in one process, one after the other; start a run per seed instead")
    entry = enter(config, stream, None if resume else out, False, trace)
    path = first_run(out).path.parent if resume else entry.folder.path
    entries, results = dict[int, Entry](), dict[int, dict[str, Any]]()
    for seed in range(config.train.seed, config.train.seed + seeds):
        settings = replace(entry.config, train=replace(config.train, seed=seed))
        folder = RunFolder(path / f"seed-{seed}")
        if not resume:
            entries[seed] = replace(entry, config=settings, folder=folder)
        elif not folder.last.exists():
            fresh = RunFolder.check(str(folder.path), settings, entry.stream.name, False)
            entries[seed] = replace(entry, config=settings, folder=fresh)
        else:
            events = None if config.data.history else entry.stream
            again = enter(settings, events, str(folder.path), True, trace)
            result = _finished(folder, settings)
            if result is None:
                entries[seed] = again
            else:
                results[seed] = result
    return SeedRuns(path, entries, results, entry.notes)


def first_run(out: str | None) -> RunFolder:
    """Return the folder of the lowest seed's run in `out`.

    Raises:
        RunFolderError: there is none.
    """
    if out is None:
        raise RunFolderError("--resume needs --out OUT, the folder of the runs to continue")
    numbers = (each.parent.name.removeprefix("seed-") for each in Path(out).glob("seed-*/config.toml"))
    seeds = sorted(int(number) for number in numbers if number.isdecimal())
    if not seeds:
        raise RunFolderError(f"{out}: has no run of a seed to resume, as in {out}/seed-0; give the first command again")
    return RunFolder(Path(out) / f"seed-{seeds[0]}")


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the results of runs with their means and sample standard deviations."""
    parts = [{name: each[name] for name in ("val", "test", "train_events_per_s")} for each in results]
    return {"seeds": list(results), "mean": _combined(parts, fmean), "deviation": _combined(parts, stdev)}


def _finished(folder: RunFolder, config: RunConfig) -> dict[str, Any] | None:
    """Return the result of a run, or None if it is not finished or would train on under these settings."""
    if not folder.result.exists():
        return None
    result: dict[str, Any] = json.loads(folder.result.read_text(encoding="utf-8"))
    stopped = result["stopped_early"] and result["patience"] == config.train.patience
    return result if stopped or result["epochs"] >= config.train.epochs else None


def _combined(parts: Sequence[Mapping[str, Any]], combine: Callable[[list[float]], float]) -> dict[str, Any]:
    """Combine the scores at each place of nested dictionaries; a score that one of them lacks is left out."""
    result: dict[str, Any] = {}
    for name in parts[0]:
        values = [part.get(name) for part in parts]
        if all(isinstance(value, Mapping) for value in values):
            result[name] = _combined(values, combine)  # type: ignore[arg-type]  # all are mappings
        elif (name in _SCORES or name == "train_events_per_s") and all(isinstance(value, float) for value in values):
            result[name] = combine(values)  # type: ignore[arg-type]  # all are floats
    return {name: value for name, value in result.items() if value != {}}
