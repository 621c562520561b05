"""The comparison of precisions: its arithmetic, its count of bytes, and the limits of the committed runs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.studies.precision import PRECISIONS, difference, table_mib
from mspipe_triton.data.events import EventStream

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results"


def test_precisions_are_compared_seed_by_seed() -> None:
    gain = difference([0.90, 0.80, 0.70], [0.91, 0.80, 0.68])
    assert gain["points"] == pytest.approx([1, 0, -2])
    assert gain["mean"] == pytest.approx(-1 / 3)
    assert gain["standard_error"] == pytest.approx(math.sqrt(7 / 9))
    assert gain["at_most"] == pytest.approx(1 / 3 + 2 * math.sqrt(7 / 9))


def test_bytes_include_every_table(small_stream: EventStream) -> None:
    stream = replace(small_stream, node_features=torch.ones(small_stream.num_nodes, 5))
    nodes, features = stream.num_nodes, 3 * len(stream) + 5 * stream.num_nodes
    for precision, size in (("full", 4), ("bf16", 2)):
        mib = table_mib(stream, "tgn", precision)
        assert mib["all"] * 2**20 == pytest.approx(size * (nodes * 2 * 100 + features) + nodes * 3 * 8)
        assert mib["all"] == pytest.approx(sum(mib.values()) - mib["all"])


@pytest.mark.parametrize("stream", ["uci", "wiki", "synthetic"])
def test_bfloat16_costs_no_more_than_promised(stream: str) -> None:
    report = json.loads((RESULTS / f"precision-{stream}.json").read_text(encoding="utf-8"))
    scores = [[run["ap"] for run in report[precision]["seeds"]] for precision in PRECISIONS]
    assert len(scores[0]) >= 5
    assert report["bf16_minus_full"] == difference(*scores)
    assert report["bf16_minus_full"]["at_most"] <= 0.3
    rows = {"memory", "partner"} | ({"edge_features"} if report["stream"]["dim_edge"] else set())
    assert all(report["full"]["mib"][name] == 2 * report["bf16"]["mib"][name] for name in rows)
