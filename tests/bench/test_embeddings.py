"""The study of embeddings: its shares by hand, the streams' groups, and what the committed runs show."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import torch

from bench.studies.embeddings import (
    VARIANTS,
    chance,
    group_of_items,
    group_of_users,
    last_features,
    mean_features,
    plane,
    same_group,
)
from mspipe_triton import EventStream

REPORT = json.loads(
    (Path(__file__).resolve().parents[2] / "bench" / "results" / "embeddings.json").read_text(encoding="utf-8")
)


def stream() -> EventStream:
    """Users 0 and 1 and items 1500 (of group 0), 1549 (of group 0) and 1550 (of group 1)."""
    src, dst = torch.tensor([0, 0, 1, 0]), torch.tensor([1500, 1550, 1549, 1550])
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [4.0, 3.0]])
    return EventStream(src, dst, torch.arange(4), features)


def test_nearest_neighbours_by_hand() -> None:
    rows = torch.tensor([[1.0, 0.0], [9.0, 1.0], [0.0, 1.0], [1.0, 5.0], [-1.0, 0.1]])
    assert same_group(rows, {0: 0, 1: 0, 2: 1, 3: 1}) == 1
    assert same_group(rows, {0: 0, 1: 1, 2: 1, 3: 1}) == 0.5
    assert same_group(rows, {0: 0, 4: 1, 2: 1}) == pytest.approx(2 / 3), "the other way is not near"


def test_chance_by_hand() -> None:
    assert chance({10: 0, 11: 0, 12: 1}) == pytest.approx(2 / 6)
    assert chance({10: 0, 11: 0}) == 1


def test_groups_and_features_of_nodes() -> None:
    assert group_of_items(stream()) == {1500: 0, 1549: 0, 1550: 1}
    assert group_of_users(stream()) == {0: 1, 1: 0}
    assert last_features(stream())[[0, 1, 1500, 1550]].tolist() == [[4, 3], [2, 2], [1, 0], [4, 3]]
    assert mean_features(stream())[[1, 1500, 1550]].tolist() == [[2, 2], [1, 0], [2, 2]]


def test_a_plane_has_the_widest_directions_first() -> None:
    rows = torch.tensor([[0.0, 0, 3], [0, 0, -3], [1, 0, 0], [-1, 0, 0]])
    expected = torch.tensor([[3.0, 0], [-3, 0], [0, 1], [0, -1]])
    torch.testing.assert_close(plane(rows + 7), expected)


def test_the_committed_runs_show_the_groups_where_features_tell_them_apart() -> None:
    assert REPORT["variants"].keys() == VARIANTS.keys()
    for variant in REPORT["variants"].values():
        assert len(variant["runs"]) >= 3
        for key in ("ap", "items", "users"):
            assert variant[key] == pytest.approx(statistics.mean(run[key] for run in variant["runs"]))
    best, pairs = REPORT["variants"]["features"], REPORT["variants"]["features and pairs"]
    for kind in ("items", "users"):
        assert best[kind] > 1.3 * REPORT["last_event"][kind]
        assert REPORT["chance"][kind] + 0.1 < pairs[kind] < best[kind]
        for name in ("nothing", "pairs"):
            assert REPORT["variants"][name][kind] < REPORT["chance"][kind] + 0.05, "no model reads ids"
    assert len(REPORT["points"]) == REPORT["stream"]["items"]
