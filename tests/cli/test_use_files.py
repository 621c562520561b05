"""Files of the commands that use a run: outputs that are refused, dates of another form, new nodes, missing tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cli.using import Command, done, read, refusal
from tests.serving.served import write_rows


def test_predict_counts_new_nodes(run: Path, new: list[dict[str, Any]], command: Command) -> None:
    result = done(command("predict", "run", "new.csv", "--out", "scores.csv", "--json"))
    assert json.loads(result.stdout)["new_nodes"] == 2  # zoe and 999
    assert "Scored 3 events, 2 new nodes: scores.csv" in result.stderr


def test_outputs_that_would_replace_own_files(run: Path, new: list[dict[str, Any]], command: Command) -> None:
    before = {path: path.read_bytes() for path in (run.parent / "shop.csv", run.parent / "new.csv")}
    for out, fault in (
        ("new.csv", "is a table that this command reads; name another file"),
        ("shop.csv", "is a table that this command reads; name another file"),
        ("run/scores.csv", "is inside the run folder run; name a file elsewhere"),
    ):
        line = refusal(command("predict", "run", "new.csv", "--out", out, "--force"))
        assert line == f"--out {out} {fault}"
        if out != "new.csv":
            assert refusal(command("embed", "run", "--out", out, "--force")) == line
    assert before == {path: path.read_bytes() for path in before}
    assert not (run / "scores.csv").exists()


def test_new_dates_of_another_form(run: Path, command: Command, tmp_path: Path) -> None:
    row = {"user": "u1", "item": 100, "when": "01.05.2024 10:00", "amount": 2.5, "channel": "web"}
    write_rows(tmp_path / "german.csv", [row])
    assert "--time-format" in refusal(command("predict", "run", "german.csv", "--out", "x.csv"))
    done(command("predict", "run", "german.csv", "--out", "x.csv", "--time-format", "%d.%m.%Y %H:%M"))
    assert str(read(tmp_path / "x.csv")["t"][0]).startswith("2024-05-01")


def test_a_missing_table_and_a_wrong_word_for_a_state(run: Path, command: Command) -> None:
    assert refusal(command("predict", "run", "no.csv", "--out", "x.csv")) == (
        "no.csv: no such file; name a table of new events, or a folder of them"
    )
    assert refusal(command("embed", "run", "--out", "x.csv", "--at", "trainng")).endswith("or 'training'")
