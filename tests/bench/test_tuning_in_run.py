"""The study of tuning in a run: what it runs and reads, with a stand-in for the program, and its table."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.studies.tuning_in_run import study, table

PROGRAM = """
import json, sys
from pathlib import Path
words = sys.argv[1:]
with open(LOG, "a") as log:
    log.write(" ".join(words) + "\\n")
tuning = None
if "--no-autotune" not in words:
    tuning = {"trials": 4, "cost_seconds": 2.0, "share": 0.04, "gain": None, "noise": None, "settings": {"threads": 2}}
result = {"epoch_seconds": [1.0, 2.0], "test": {"ap": 0.75}, "fused": True, "compile_seconds": 3.0, "tuning": tuning}
Path("run").mkdir()
Path("run/result.json").write_text(json.dumps(result))
"""


def test_the_study_trains_with_and_without_tuning_in_turn(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(f"LOG = {str(tmp_path / 'log')!r}\n{PROGRAM}")
    (tmp_path / "runs").mkdir()
    report = study(tmp_path / "runs", "synthetic", 20, 2, [sys.executable, "-S", str(path)])
    typed = (tmp_path / "log").read_text().splitlines()
    plain = "train synthetic --epochs 20 --out run --no-autotune"
    assert typed == [plain, plain.removesuffix(" --no-autotune"), plain.removesuffix(" --no-autotune"), plain]
    assert report["pairs"][0]["plain"]["trials"] is None
    assert report["pairs"][1]["tuned"]["training_seconds"] == 3.0
    rows = table(json.loads(json.dumps(report))).splitlines()
    assert len(rows) == 4
    assert rows[2].split("|")[3:7] == [" 4 ", " 2.0 ", " 4.0% ", " none "]
