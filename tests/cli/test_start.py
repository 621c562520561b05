"""Commands that need no torch: they do not load it, so that help, plans and answers to wrong flags come at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TIMES = "sample=2,features=3,memory=2,train=6,update=3"
COMMANDS = (
    ["--help"],
    ["train", "--help"],
    ["plan", "--times", TIMES],
    ["plan", "--times", TIMES, "--json"],
    ["data", "generate", "events.csv", "--events", "50"],
    ["train", "--modle", "tgn"],
    ["train", "--model", "tng"],
    ["train", "--columns", "source=a"],
    ["train", "missing.csv"],
    ["autotune", "missing.csv"],
    ["data", "info", "missing.csv"],
    ["predict", "run", "missing.csv", "--out", "scores.csv"],
    ["rank", "run", "--src", "a", "--top", "0"],
    ["embed", "run", "--out", "table.txt"],
)
CODE = f"""
import json, sys
from mspipe_triton.cli.commands import main
results = []
for arguments in {COMMANDS!r}:
    sys.argv = ["mspipe-triton", *arguments]
    try:
        main()
    except SystemExit as end:
        results.append([end.code, sorted({{"torch", "triton", "optuna"}} & sys.modules.keys())])
sys.__stdout__.write("\\n" + json.dumps(results))
"""


def test_commands_that_need_no_torch_do_not_load_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    results = json.loads(done.stdout.rpartition("\n")[2])
    assert [modules for _, modules in results] == [[]] * len(COMMANDS)
    assert [code for code, _ in results] == [0] * 5 + [2] * 9, done.stderr
    assert len((tmp_path / "events.csv").read_text().splitlines()) == 51
    errors = done.stderr.splitlines()
    assert sum("missing.csv: no such file" in line for line in errors) == 4
