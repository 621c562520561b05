"""`predict`, `rank` and `embed`: their files, JSON and lines, and input that is refused in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mspipe_triton import load
from tests.cli.using import Command, done, read, refusal
from tests.serving.served import shop_rows, write_rows


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_predict_scores_events_right_before_they_happen(
    suffix: str, run: Path, new: list[dict[str, Any]], command: Command, tmp_path: Path
) -> None:
    out = tmp_path / f"deep/scores{suffix}"
    result = done(command("predict", "run", "new.csv", "--out", str(out), "--json"))
    facts = json.loads(result.stdout)
    assert facts.keys() == {"events", "late", "new_nodes", "out", "seconds"}
    assert (facts["events"], facts["late"], facts["out"]) == (3, 0, str(out))
    assert "Scored 3 events, 2 new nodes: " in result.stderr
    predictor = load(run)
    ends = [[row[name] for row in new] for name in ("user", "item", "when")]
    features = {name: [row[name] for row in new] for name in ("amount", "channel")}
    scores = predictor.predict(*ends, features)
    table = read(out)
    assert list(table) == ["src", "dst", "t", "score"]
    assert (table["src"], table["dst"]) == (ends[0], ends[1])
    assert [each.isoformat() for each in table["t"]] == ends[2]
    np.testing.assert_allclose(table["score"], scores, rtol=1e-6)
    assert {path.name for path in out.parent.iterdir()} == {out.name}


def test_a_run_that_is_interrupted_gets_a_note(run: Path, command: Command) -> None:
    for name in ("model.json", "model.safetensors", "result.json"):
        (run / name).unlink()
    state = "Note: training of run has not finished (1 of 1 epoch); its model is that of epoch 1."
    note = f"{state} `mspipe-triton train --out run --resume` finishes it."
    for arguments in (("rank", "run", "--src", "u1"), ("embed", "run", "--out", "nodes.csv")):
        assert note in done(command(*arguments)).stderr.splitlines()
    assert refusal(command("serve", "run", "--port", "0")) == (
        "run: no model there (model.json is missing); finish its training with `mspipe-triton train --out run --resume`"
    )
    (run / "last.pt").unlink()
    assert state in done(command("rank", "run", "--src", "u1")).stderr.splitlines()


def test_predict_keeps_the_order_of_the_file(
    run: Path, new: list[dict[str, Any]], command: Command, tmp_path: Path
) -> None:
    write_rows(tmp_path / "mixed.csv", [new[2], new[0], new[1]])
    line = refusal(command("predict", "run", "mixed.csv", "--out", "scores.csv"))
    assert re.match(r"mixed\.csv: row 2: when is .*, earlier than in the row before; sort the events with --sort", line)
    done(command("predict", "run", "mixed.csv", "--out", "mixed.parquet", "--sort"))
    done(command("predict", "run", "new.csv", "--out", "plain.parquet"))
    mixed, plain = read(tmp_path / "mixed.parquet"), read(tmp_path / "plain.parquet")
    assert mixed["src"] == ["u2", "u1", "zoe"]
    for name, values in plain.items():
        assert [mixed[name][place] for place in (1, 2, 0)] == values


def test_predict_and_late_events(run: Path, new: list[dict[str, Any]], command: Command, tmp_path: Path) -> None:
    early = {**new[0], "when": "2024-03-15T00:00:00"}
    write_rows(tmp_path / "late.csv", [early, *new])
    line = refusal(command("predict", "run", "late.csv", "--out", "scores.parquet"))
    assert line == (
        "late.csv: row 1 is late: its time is 2024-03-15, and the last event so far is at 2024-03-17T15:00:00; "
        "load an earlier state with --at, or leave late events out with --late drop"
    )
    result = done(command("predict", "run", "late.csv", "--out", "scores.parquet", "--late", "drop", "--json"))
    assert "1 late event without a score" in result.stderr
    assert json.loads(result.stdout)["late"] == 1
    done(command("predict", "run", "new.csv", "--out", "new.parquet"))
    assert read(tmp_path / "scores.parquet")["score"] == [None, *read(tmp_path / "new.parquet")["score"]]
    done(command("predict", "run", "late.csv", "--out", "early.csv", "--at", "2024-03-15"))
    assert None not in read(tmp_path / "early.csv")["score"]
    assert refusal(command("predict", "run", "new.csv", "--out", "x.csv", "--late", "keep")) == (
        "--late must be refuse or drop, not 'keep'"
    )


def test_predict_repeats_the_test_events(run: Path, command: Command, tmp_path: Path) -> None:
    write_rows(tmp_path / "test.csv", shop_rows()[280:])
    done(command("predict", "run", "test.csv", "--out", "a.parquet", "--at", "training"))
    done(command("predict", "run", "test.csv", "--out", "b.parquet", "--at", shop_rows()[280]["when"]))
    first, second = (read(tmp_path / name)["score"] for name in ("a.parquet", "b.parquet"))
    assert len(first) == 120
    np.testing.assert_allclose(first, second, rtol=1e-9, atol=1e-9)


def test_files_that_exist(run: Path, new: list[dict[str, Any]], command: Command, tmp_path: Path) -> None:
    for act in (("predict", "run", "new.csv"), ("embed", "run")):
        (tmp_path / "out.csv").write_text("mine")
        assert refusal(command(*act, "--out", "out.csv")) == (
            "out.csv: exists already; use --force to replace it, or another name"
        )
        assert (tmp_path / "out.csv").read_text() == "mine"
        assert refusal(command(*act, "--out", "out.txt")) == "out.txt: use a name that ends in .csv or .parquet"
        done(command(*act, "--out", "out.csv", "--force"))
        assert (tmp_path / "out.csv").read_text() != "mine"


HEADER = "user,item,when,amount,channel\n"
TABLES: dict[str, tuple[str, str]] = {
    "empty": ("", "new.csv"),
    "binary": ("\x00\x01", "new.csv"),
    "other columns": ("a,b\n1,2\n", "new.csv: no columns 'user', 'item' and 'when', as the run's events have; the"),
    "no features": ("user,item,when\nu1,100,2024-04-01\n", "new.csv: no column 'amount', which is a feature"),
    "no number": (f"{HEADER}u1,100,2024-04-01,much,web\n", "new.csv: row 1: amount is 'much', not"),
    "no feature": (f"{HEADER}u1,100,2024-04-01,,web\n", "new.csv: row 1: amount is empty"),
    "no user": (f"{HEADER},100,2024-04-01,1,web\n", "new.csv: row 1: user is empty"),
    "no item": (f"{HEADER}u1,pen,2024-04-01,1,web\n", "new.csv: row 1: item is 'pen', not an"),
    "no time": (f"{HEADER}u1,100,soon,1,web\n", "new.csv: row 1: when is 'soon'"),
    "finer": (f"{HEADER}u1,100,2024-04-01T00:00:00.5,1,web\n", "finer than the run's times"),
    "milliseconds": (f"{HEADER}u1,100,1711929600000,1,web\n", "looks like Unix milliseconds"),
}  # fmt: skip


@pytest.mark.parametrize("table", TABLES)
def test_tables_that_are_refused(table: str, run: Path, command: Command, tmp_path: Path) -> None:
    text, message = TABLES[table]
    (tmp_path / "new.csv").write_text(text)
    assert message in refusal(command("predict", "run", "new.csv", "--out", "scores.csv"))
    assert not (tmp_path / "scores.csv").exists()
    assert not list(tmp_path.glob(".scores*"))


def test_a_header_alone_and_times_of_other_forms(run: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(HEADER)
    result = command("predict", "run", "new.csv", "--out", "scores.csv")
    assert "new.csv" in refusal(result)
    scores = set()
    for number, when in enumerate(("2024-04-01", "2024-04-01T02:00:00+02:00", "20240401", "1711929600")):
        (tmp_path / "new.csv").write_text(f"{HEADER}u1,100,{when},1,web\n")
        done(command("predict", "run", "new.csv", "--out", f"{number}.csv"))
        scores.add(read(tmp_path / f"{number}.csv")["score"][0])
    assert len(scores) == 1


def test_rank_as_json(run: Path, command: Command) -> None:
    predictor = load(run)
    result = done(command("rank", "run", "--src", "u1", "--json"))
    answer = json.loads(result.stdout)
    assert list(answer) == ["src", "time", "top"]
    assert (answer["src"], answer["time"]) == ("u1", "2024-03-17T15:00:00")
    assert all(list(each) == ["dst", "score"] for each in answer["top"])
    assert [each["dst"] for each in answer["top"]] == [each for each, _ in predictor.rank("u1")]
    assert all(type(each["dst"]) is int for each in answer["top"])
    np.testing.assert_allclose([each["score"] for each in answer["top"]], [each for _, each in predictor.rank("u1")])
    assert "u1 just after 2024-03-17T15:00:00, among 4 destinations state after 400 events" in " ".join(
        result.stderr.split()
    )
    few = json.loads(done(command("rank", "run", "--src", "u1", "--top", "2", "--json")).stdout)
    assert few["top"] == answer["top"][:2]
    assert done(command("rank", "run", "--src", "u1")).stdout == ""


def test_rank_at_a_time(run: Path, command: Command) -> None:
    for time, events in (("2024-03-10", 216), ("2024-04-01T12:00", 400), ("1711929600", 400), ("20240310", 216)):
        result = done(command("rank", "run", "--src", "u1", "--time", time, "--json"))
        assert f"state after {events} events" in " ".join(result.stderr.split())
        answer, earlier = json.loads(result.stdout), load(run, at=time)
        assert answer["time"] == earlier.time_of(time)
        np.testing.assert_allclose(
            [each["score"] for each in answer["top"]], [each for _, each in earlier.rank("u1", time)], rtol=1e-9
        )


def test_rank_and_ids(run: Path, command: Command, tmp_path: Path) -> None:
    lines = {
        ("--src", "U1"): (
            "--src: there is no user 'U1'; do you mean 'u1'? If it is new, --new takes it for a node without events"
        ),
        ("--src", "100"): "--src: there is no user '100'; 100 is of kind item",
        ("--src", "zoe"): "--src: user 'zoe' is new, since no event so far has it; --new takes it for a node without "
        "events",
        ("--src", ""): "--src is empty; give an id",
        ("--src", "u1", "--top", "0"): "--top must be at least 1, not 0",
        ("--src", "u1", "--time", "soon"): "--time is 'soon', neither a number nor a date; give a number, or a date "
        "such as 2026-01-01 or 2026-01-01T12:00:00+02:00",
        ("--src", "u1", "--time", "2024-02-01"): "--time is 2024-02-01, not after the first event, at 2024-03-01; give "
        "a later time",
    }  # fmt: skip
    for arguments, line in lines.items():
        assert refusal(command("rank", "run", *arguments)) == line
    for arguments in (("--src", "u1", "--top", "few"), (), ("--src", "u1", "--mode", "cached")):
        assert refusal(command("rank", "run", *arguments)).endswith("See `mspipe-triton rank --help`.")
    answer = json.loads(done(command("rank", "run", "--src", "zoe", "--new", "--json")).stdout)
    assert (answer["src"], len(answer["top"])) == ("zoe", 4)
    done(command("data", "generate", "events.csv", "--events", "300", "--users", "9", "--items", "10"))
    small = ("--epochs", "1", "--batch-size", "50", "--dim", "8", "--fanout", "3", "--negatives", "3", "--threads", "1")
    done(command("train", "events.csv", *small, "--out", "numbers"))
    answer = json.loads(done(command("rank", "numbers", "--src", "1", "--json")).stdout)
    assert (answer["src"], type(answer["time"])) == (1, int)
    assert "--src: there is no node '01'; do you mean 1?" in refusal(command("rank", "numbers", "--src", "01"))
    assert refusal(command("rank", "numbers", "--src", "ann", "--new")) == (
        "--src is 'ann', not an integer of int64, as the run's ids are; correct it"
    )


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_embed_writes_all_nodes(suffix: str, run: Path, command: Command, tmp_path: Path) -> None:
    result = done(command("embed", "run", "--out", f"rows{suffix}", "--json"))
    assert json.loads(result.stdout) == {
        "nodes": 24, "dim": 8, "time": "2024-03-17T15:00:00", "out": f"rows{suffix}",
    }  # fmt: skip
    table, predictor = read(tmp_path / f"rows{suffix}"), load(run)
    assert list(table) == ["node", "kind", *(f"e{number}" for number in range(8))]
    ids = [str(each) for _, each in predictor.nodes]
    assert list(zip(table["kind"], table["node"], strict=True)) == [
        (kind, each) for (kind, _), each in zip(predictor.nodes, ids, strict=True)
    ]
    np.testing.assert_allclose(np.array([table[f"e{number}"] for number in range(8)]).T, predictor.embed(), rtol=1e-9)
    done(command("embed", "run", "--out", f"early{suffix}", "--at", "2024-03-10"))
    early = read(tmp_path / f"early{suffix}")
    np.testing.assert_allclose(early["e0"], load(run, at="2024-03-10").embed(t="2024-03-10")[:, 0], rtol=1e-9)
    assert refusal(command("embed", "run", "--out", "x.csv", "--at", "soon")).startswith("--at is 'soon', neither")
    assert refusal(command("embed", "run", "--out", "x.csv", "--at", "2024-03-01")) == (
        "--at is 2024-03-01, not after the first event, at 2024-03-01; give a later time"
    )


def test_runs_that_are_refused(run: Path, new: list[dict[str, Any]], command: Command, tmp_path: Path) -> None:
    acts = (("predict", "new.csv", "--out", "x.csv"), ("rank", "--src", "u1"), ("embed", "--out", "x.csv"))
    saved = load(run)
    saved.save(tmp_path / "saved")
    for name, *rest in acts:
        assert refusal(command(name, "no", *rest)) == (
            "no: no run there (config.toml is missing); name a folder that `train` wrote"
        )
        done(command(name, "saved", *rest, *(("--force",) if name != "rank" else ())))
        (tmp_path / "x.csv").unlink(missing_ok=True)
        line = refusal(command(name, "saved", *rest, "--data", "shop.csv"))
        assert re.fullmatch(
            r"saved: holds a saved predictor, of one state; omit --(at|time) and --data, or name the run folder", line
        )
    assert refusal(command("embed", "saved", "--out", "x.csv", "--at", "training")).startswith("saved: holds a saved")
    assert refusal(command("rank", "saved", "--src", "u1", "--time", "2024-03-10")) == (
        "--time is 2024-03-10, before the last event, at 2024-03-17T15:00:00; a model that has seen it cannot go back; "
        "the run folder has the state of an earlier time"
    )
    (tmp_path / "shop.csv").rename(tmp_path / "moved.csv")
    for name, *rest in acts:
        line = refusal(command(name, "run", *rest))
        fix = "restore it, or name the one that run was trained on with --data FILE"
        assert line == f"{tmp_path / 'shop.csv'}: no such file; {fix}"
        assert "another" not in refusal(command(name, "run", *rest, "--data", "typo.csv"))
        line = refusal(command(name, "run", *rest, "--data", "new.csv"))
        assert "was trained on 400 events" in line
        assert line.endswith("name the one that the run was trained on with --data")
        assert not (tmp_path / "x.csv").exists()
        done(command(name, "run", *rest, "--data", "moved.csv"))
        (tmp_path / "x.csv").unlink(missing_ok=True)
