"""The data of a run: their contents in short, the settings that read them again, and the record of what reading did."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mspipe_triton.config import DataConfig
from mspipe_triton.data import source
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.ids import NodeIds
from mspipe_triton.data.origin import Origin, Source
from mspipe_triton.data.source import Contents, data_of, fingerprint, load_stream, record
from mspipe_triton.data.synthetic import synthetic_stream
from mspipe_triton.data.time_scale import TimeScale
from mspipe_triton.errors import ConfigError

NODES = 90  # of the small stream


def ids(*values: list[Any], kinds: tuple[str, ...] = ()) -> NodeIds:
    return NodeIds(tuple(pa.array(each) for each in values), kinds)


def test_the_fingerprint_is_the_digest_of_the_digests_of_the_parts(small_stream: EventStream) -> None:
    def digest(content: bytes) -> str:
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    stream = replace(small_stream, node_features=torch.rand(NODES, 2))
    parts = [(), (stream.src, stream.dst), (stream.t,), (stream.edge_features,), (stream.node_features,)]
    digests = [digest(b"".join(column.numpy().tobytes() for column in columns)) for columns in parts]
    assert fingerprint(stream) == digest("".join(digests).encode())
    other = Contents.of(replace(stream, labels=1 - stream.labels))
    assert Contents.of(stream).fingerprint == other.fingerprint
    assert Contents.of(stream).changes(other, labels=True) == ["labels"]
    assert Contents.of(stream).changes(other, labels=False) == []


@pytest.mark.parametrize("column", ["src", "dst", "t", "edge_features"])
def test_a_change_of_any_value_changes_the_fingerprint(small_stream: EventStream, column: str) -> None:
    values = getattr(small_stream, column).clone()
    values[-1] += 1 if column != "dst" else -1
    assert fingerprint(replace(small_stream, **{column: values})) != fingerprint(small_stream)


def test_features_count_as_float32(small_stream: EventStream) -> None:
    assert small_stream.edge_features is not None
    wide = replace(small_stream, edge_features=small_stream.edge_features.double())
    assert fingerprint(wide) == fingerprint(small_stream)


def test_the_fingerprint_needs_one_chunk_of_a_mapped_table_at_a_time(
    small_stream: EventStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert small_stream.edge_features is not None
    expected, whole = fingerprint(small_stream), small_stream.edge_features
    whole.numpy().tofile(tmp_path / "features.bin")
    mapped = torch.from_file(str(tmp_path / "features.bin"), size=whole.numel()).view(whole.shape)
    monkeypatch.setattr(source, "_CHUNK_BYTES", 1000)
    chunks = [chunk.nbytes for chunk in source._chunks(mapped)]
    assert max(chunks) <= 1000
    assert sum(chunks) == whole.nbytes
    assert fingerprint(replace(small_stream, edge_features=mapped)) == expected


def test_ids_count_whatever_type_holds_them(small_stream: EventStream, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = list(range(100, 100 + NODES))
    texts = [f"node {number:03}" for number in numbers]
    streams = {
        "none": small_stream,
        "numbers": replace(small_stream, ids=ids(numbers)),
        "other numbers": replace(small_stream, ids=ids([99, *numbers[1:]])),
        "negative": replace(small_stream, ids=ids([-1, *numbers[1:]])),
        "largest": replace(small_stream, ids=NodeIds((pa.array([2**64 - 1, *numbers[1:]], pa.uint64()),))),
        "digits": replace(small_stream, ids=ids([str(number) for number in numbers])),
        "texts": replace(small_stream, ids=ids(texts)),
        "moved letter": replace(small_stream, ids=ids([texts[0] + "n", texts[1][1:], *texts[2:]])),
        "kinds": replace(small_stream, ids=ids(numbers[:60], numbers[60:], kinds=("user", "item"))),
        "other kinds": replace(small_stream, ids=ids(numbers[:60], numbers[60:], kinds=("src", "dst"))),
        "mixed kinds": replace(small_stream, ids=ids(numbers[:60], texts[60:], kinds=("user", "item"))),
    }
    digests = {name: fingerprint(stream) for name, stream in streams.items()}
    assert len(set(digests.values())) == len(streams), digests
    unsigned = NodeIds((pa.array(numbers, pa.uint64()),))
    assert fingerprint(replace(small_stream, ids=unsigned)) == digests["numbers"]
    large = NodeIds((pa.array(texts, pa.large_string()),))
    assert fingerprint(replace(small_stream, ids=large)) == digests["texts"]
    monkeypatch.setattr(source, "_CHUNK_IDS", NODES)
    assert fingerprint(streams["texts"]) == digests["texts"]


def test_ids_that_are_the_nodes_themselves_count_as_none(small_stream: EventStream) -> None:
    same = replace(small_stream, ids=ids(list(range(NODES))))
    assert fingerprint(same) == fingerprint(small_stream)
    apart = replace(small_stream, ids=ids(list(range(60)), list(range(30)), kinds=("user", "item")))
    assert fingerprint(apart) != fingerprint(small_stream)


def test_contents_read_as_a_sentence(small_stream: EventStream) -> None:
    contents = Contents.of(small_stream)
    assert str(contents) == "1,200 events, 90 nodes and edge features of width 3"
    assert str(replace(contents, edge_features=0)) == "1,200 events, 90 nodes and no edge features"


def test_data_of_a_stream_from_a_file_have_absolute_paths(
    small_stream: EventStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    read = DataConfig(path="events.csv", sort=True, node_features="nodes.npy")
    stream = replace(small_stream, source=Source(Origin((("events.csv", 1200),)), data=read))
    expected = replace(read, path=str(tmp_path / "events.csv"), node_features=str(tmp_path / "nodes.npy"))
    assert data_of(stream, DataConfig(path="other.csv")) == expected


def test_data_of_a_stream_without_a_file(small_stream: EventStream, tmp_path: Path) -> None:
    named = DataConfig(path=str(tmp_path / "events.csv"))
    assert data_of(small_stream, named) == named
    assert data_of(small_stream, DataConfig()) == DataConfig(path="", raw_features=True, one_kind=True)
    apart = replace(small_stream, ids=ids(list(range(60)), list(range(30)), kinds=("user", "item")))
    assert data_of(apart, DataConfig()) == DataConfig(path="", raw_features=True, bipartite=True)
    assert data_of(synthetic_stream(), named) == DataConfig()
    with pytest.raises(ConfigError, match="passed from Python"):
        load_stream(DataConfig(path=""))


@pytest.mark.parametrize(
    ("roles", "scaled", "rest"),
    [
        ({"": "", "index": ""}, False, ""),
        ({"amount": "", "f0": "feature"}, True, "; features f0; unused: amount"),
        ({"amount": ""}, False, "; unused: amount\n  (--columns features=amount reads it)"),
        (
            dict.fromkeys(("amount", "fee", "note", "bank", "row number"), ""), False,
            "; unused: amount, fee, note and 1 more\n  (--columns features=NAME reads one)",
        ),
    ],
    ids=["row numbers", "features", "one", "many"],
)  # fmt: skip
def test_columns_that_nothing_uses_are_named(roles: dict[str, str], scaled: bool, rest: str) -> None:
    ends = {"sender": "src", "receiver": "dst", "booked_at": "t"}
    features: Any = Scaling(2.0) if scaled else None
    source = Source(Origin((("events.csv", 9),)), roles={**ends, **roles}, features=features)
    assert source.reading == f"Events: sender → receiver at booked_at{rest}"


class Scaling:
    """A stand-in for a transformation of features."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def to_json(self) -> dict[str, float]:
        return {"factor": self.factor}


def test_the_record_holds_what_reading_did(small_stream: EventStream) -> None:
    plain = record(small_stream, Contents.of(small_stream), TimeScale(77, 1.0))
    assert plain == {
        "name": "synthetic", "fingerprint": fingerprint(small_stream), "events": 1200, "nodes": 90, "dim_edge": 3,
        "dim_node": 0, "parts": dict(Contents.of(small_stream).parts), "format": "", "kinds": [], "roles": {},
        "time": "", "time_scale": {"origin": 77, "gap": 1.0, "decades": 9.0}, "notes": [], "features": None,
        "node_features": None, "train_end": 840, "val_end": 1020, "history": 0,
    }  # fmt: skip
    about: Any = Source(
        Origin((("events.csv", 1200),)), np.arange(1200), None, {"who": "src", "note": ""}, ("12 rows were empty.",),
        "commas, header", "Unix seconds", Scaling(2.0), Scaling(3.0),
    )  # fmt: skip
    kinds = ids(list(range(60)), [f"item {number:02}" for number in range(30)], kinds=("user", "item"))
    stream = replace(small_stream, ids=kinds, source=about)
    whole = record(stream, Contents.of(stream), TimeScale(77, 1.0))
    assert whole == json.loads(json.dumps(whole))
    assert whole["fingerprint"] == fingerprint(stream) != plain["fingerprint"]
    expected = {
        "format": "commas, header", "kinds": ["user", "item"], "roles": {"who": "src", "note": ""},
        "time": "Unix seconds", "notes": ["12 rows were empty."], "features": {"factor": 2.0},
        "node_features": {"factor": 3.0},
    }  # fmt: skip
    assert {name: whole[name] for name in expected} == expected
