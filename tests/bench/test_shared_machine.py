"""The measurement of training on a shared machine: a small block, the summary and the table by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.shared_machine.__main__ import main
from bench.shared_machine.summary import summary, table
from bench.shared_machine.worker import Block, busy, run_block
from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.writers import write_stream
from mspipe_triton.iteration.session import Session
from mspipe_triton.machine import usage


def block(ms: float, threads: int = 2) -> dict[str, Any]:
    return {"ms": ms, "iterations": 60, "threads": threads, "dropped": None}


def report(ms: float = 36.0) -> dict[str, Any]:
    """Summary of blocks: 25 ms without and 25.5 ms with adapting, and `ms` beside a busy process."""
    idle = [(block(25.0), block(25.5)), (block(24.0), block(24.0)), (block(26.0), block(27.04))]
    beside = {
        1: ([block(500.0), block(300.0), block(400.0)], [block(ms, 1), block(ms, 1), block(90.0, 1)], [block(25.0)]),
        2: ([block(200.0)], [block(50.0, 1)], [block(24.0), block(25.0), block(26.0)]),
    }
    together = ([block(100.0), block(125.0)], [block(50.0, 1), block(40.0, 1)])
    return summary(idle, beside, together, [block(25.0), block(25.0)], 0.5)


def test_the_summary_by_hand() -> None:
    result = report()
    assert result["idle"] == {"without_ms": 25.0, "with_ms": 25.5, "cost": pytest.approx(0.02)}
    one, two = result["beside"]
    assert (one["processes"], one["without_ms"], one["with_ms"], one["threads"]) == (1, 400.0, 36.0, [1, 1, 1])
    assert (one["ratio_without"], one["ratio"], two["ratio"]) == pytest.approx((16.0, 1.44, 2.0))
    assert [run["share"] for run in result["together"]] == pytest.approx([0.5, 0.625])
    assert [run["share_without"] for run in result["together"]] == pytest.approx([0.25, 0.2])
    assert (result["onset_seconds"], result["holds"]) == (0.5, True)
    assert not report(ms=38.0)["holds"], "1.52 times the time of an idle machine"


def test_the_table_by_hand() -> None:
    assert table(report()).splitlines() == [
        "| beside | fixed, ms | adapting, ms | fixed / idle | adapting / idle | limit |",
        "| --- | --- | --- | --- | --- | --- |",
        "| nothing | 25.0 | 25.5 | 1 | 1.02 | 1.03 |",
        "| one busy process | 400.0 | 36.0 | 16.00 | 1.44 | 1.5 |",
        "| two | 200.0 | 50.0 | 8.00 | 2.00 | 3 |",
        "| another training: run 1 | 100.0 | 50.0 | 4.00 | 2.00 | 2.5 |",
        "| another training: run 2 | 125.0 | 40.0 | 5.00 | 1.60 | 2.5 |",
    ]


@pytest.mark.parametrize("adapts", [False, True])
def test_a_block_has_its_iterations(small_stream: EventStream, monkeypatch: pytest.MonkeyPatch, adapts: bool) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    config = RunConfig(model=ModelConfig(dim=8, fanout=4), train=TrainConfig(batch_size=100))
    session = Session.create(config, small_stream)
    facts = run_block(session, Block(adapts, iterations=12))
    assert (facts["iterations"], facts["threads"], facts["dropped"]) == (12, 1, None)
    assert facts["ms"] > 0
    assert run_block(session, Block(adapts, seconds=0.0))["iterations"] == 1


def test_busy_processes_use_cores_until_they_are_killed() -> None:
    with busy(1):
        before = usage()
        while (now := usage()).time < before.time + 0.2:
            pass
        assert now.relatives > before.relatives
    assert usage().ended > before.ended


@pytest.mark.slow
def test_a_small_measurement(small_stream: EventStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    write_stream(small_stream, tmp_path / "events.csv")
    main(str(tmp_path / "events.csv"), 100, 2, 1, 3, 0.1, tmp_path / "result.json")
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert {"command", "commit", "machine", "stream", "settings", "idle", "beside", "together"} <= result.keys()
    assert [row["processes"] for row in result["beside"]] == [1, 2]
    assert len(result["together"]) == 2
    assert len(table(result).splitlines()) == 7
