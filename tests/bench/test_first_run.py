"""The study of a first run: what it runs and reads, with a stand-in for the program, and its table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.studies import first_run
from bench.studies.first_run import LIMITS, User, study, table

# Writes what the program would, and a line with its arguments and the place of its caches.
PROGRAM = """
import json, os, sys
from pathlib import Path
words = sys.argv[1:]
caches = [os.environ[name] for name in ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR")]
with open(LOG, "a") as log:
    log.write(json.dumps({"words": words, "folder": os.getcwd(), "caches": caches}) + "\\n")
if words[0] == "train" and "--modle" in words:
    sys.exit(2)
if words[0] == "train":
    name = Path(words[1]).stem
    number = 1 + len(list(Path("runs").glob(f"{name}-tgn-*")))
    run = Path(f"runs/{name}-tgn-{number}")
    run.mkdir(parents=True)
    start = {"import_seconds": 1.5, "first_iteration_seconds": 4.0 + number}
    result = {"start": start, "compile_seconds": 3.0, "train_events_per_s": 20000.0, "epochs": 3, "test": {"ap": 0.75}}
    (run / "result.json").write_text(json.dumps(result))
if words[:2] == ["data", "generate"]:
    count = int(words[words.index("--events") + 1]) if "--events" in words else 5
    Path(words[2]).write_text("src,dst,time\\n" + "".join(f"1,2,{t}\\n" for t in range(count)))
"""


def program(tmp_path: Path, code: str = PROGRAM) -> list[str]:
    path = tmp_path / "program.py"
    path.write_text(f"LOG = {str(tmp_path / 'log')!r}\n{code}")
    return [sys.executable, "-S", str(path)]


def test_the_study_runs_what_a_user_types_and_reads_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_run, "REPEATS", 1)
    report = study(tmp_path, program(tmp_path))
    calls = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    typed = [" ".join(call["words"]) for call in calls]
    assert typed[:2] == ["train synthetic --model tgn"] * 2
    assert typed[-3:] == [
        "data generate everything.csv --events 22000", "train events.csv --model tgn",
        "predict runs/events-tgn-1 new.csv --out scores.csv",
    ]  # fmt: skip
    other = tmp_path / "own"
    for name, count in (("events.csv", 20_000), ("new.csv", 2_000)):
        assert len((other / name).read_text().splitlines()) == 1 + count
    assert (other / "new.csv").read_text().startswith("src,dst,time\n1,2,20000\n"), (
        "the new events come after the others"
    )
    builtin = str(tmp_path / "builtin")
    assert {call["folder"] for call in calls} == {builtin, str(other)}
    assert all(cache.startswith(call["folder"]) for call in calls for cache in call["caches"])
    cold, again = report["builtin"]["cold"], report["builtin"]["again"]
    assert (cold["import_seconds"], cold["first_events_seconds"], again["first_events_seconds"]) == (1.5, 3.5, 4.5)
    assert cold["seconds"] > 0
    assert set(report["quick"]) == {"help", "plan", "misspelt", "generate"}
    assert [step["command"] for step in report["own"]] == typed[-2:]
    assert json.loads(json.dumps(report)) == report


def test_a_command_that_fails_ends_the_study_with_its_words(tmp_path: Path) -> None:
    user = User(tmp_path, program(tmp_path, "import sys; sys.exit('no such model')"))
    with pytest.raises(RuntimeError, match=r"train x: exit status 1, not 0: no such model"):
        user.seconds("train", "x")
    assert user.seconds("train", "x", status=1) > 0


def test_the_table_has_a_line_for_each_command_and_its_limit() -> None:
    run = {"command": "train synthetic --model tgn", "seconds": 39.96, "import_seconds": 0.84}
    report: dict[str, Any] = {
        "limits": LIMITS,
        "builtin": {
            "cold": {**run, "first_events_seconds": 2.34},
            "again": {**run, "seconds": 20.5, "first_events_seconds": 2.0},
        },
        "quick": {"help": 0.204, "plan": 0.226, "misspelt": 0.2, "generate": 0.61},
        "own": [{"command": "train events.csv", "seconds": 30.0}, {"command": "predict run new.csv", "seconds": 4.04}],
    }  # fmt: skip
    assert table(report).splitlines() == [
        "|  | seconds | limit |",
        "| --- | --- | --- |",
        "| `train synthetic --model tgn`, nothing compiled yet | 40.0 | 60 |",
        "| — to the first training events, nothing compiled yet | 2.3 | 8 |",
        "| — import of torch, nothing compiled yet | 0.8 |  |",
        "| `train synthetic --model tgn`, again | 20.5 | 45 |",
        "| — to the first training events, again | 2.0 | 8 |",
        "| — import of torch, again | 0.8 |  |",
        "| `--help` | 0.20 | 0.6 |",
        "| `plan` | 0.23 | 0.6 |",
        "| a misspelt flag | 0.20 | 0.6 |",
        "| `data generate` | 0.61 |  |",
        "| `train events.csv` | 30.0 |  |",
        "| `predict run new.csv` | 4.0 |  |",
        "| — from the table to predictions | 34.0 | 180 |",
    ]
