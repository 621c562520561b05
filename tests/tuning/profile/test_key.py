"""Keys of tuning profiles: the changes that give another key, and those that do not."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mspipe_triton import kernels
from mspipe_triton.config import ModelConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.errors import ConfigError
from mspipe_triton.tuning.profile import key as key_module
from mspipe_triton.tuning.profile.key import Key, digest, kernel_sources
from tests.tuning.profile.profile_case import CONFIG


def test_defaults_written_out_and_unrelated_flags_keep_the_key(key: Key, small_stream: EventStream) -> None:
    model = ModelConfig(dim=8, fanout=10, heads=2, layers=1, dropout=0)
    run = replace(CONFIG, model=model, train=replace(CONFIG.train, device="cpu", seed=3, epochs=9, lr=0.1, negatives=2))
    assert Key.of(run, replace(small_stream, name="another")) == key
    assert Key.of(run, small_stream).digest == key.digest
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert re.fullmatch("[0-9a-f]{16}", key.digest)


def test_a_key_does_not_depend_on_the_features_dtype(small_stream: EventStream) -> None:
    double = replace(CONFIG, model=replace(CONFIG.model, dtype="float64"))
    assert Key.of(double, small_stream) == Key.of(double, small_stream.to_dtype(torch.float64))


def test_a_key_changes_with_every_flag_that_tuning_depends_on(key: Key, small_stream: EventStream) -> None:
    changes: list[dict[str, Any]] = [
        {"model": "tgat"}, {"dim": 16}, {"fanout": 5}, {"sampler": "uniform"}, {"dropout": 0.1}, {"dtype": "float64"},
        {"precision": "bf16"}, {"batch_size": 50}, {"task": "node"}, {"schedule": "serial"},
        {"schedule": "fixed", "staleness": 1}, {"schedule": "fixed", "staleness": 2}, {"schedule": "mspipe"},
        {"schedule": "mspipe", "mitigation": "similarity"}, {"backend": "torch"}, {"placement": "host"}, {"threads": 1},
        {"loss": "softmax"}, {"train_negatives": 2}, {"train_negatives": 3}, {"negative_kind": "historical"},
        {"train_negatives": 2, "negative_kind": "mixed"}, {"pair_features": False},
    ]  # fmt: skip
    digests = {Key.of(CONFIG.with_flags(flags), small_stream).digest for flags in changes}
    assert len({key.digest, *digests}) == 1 + len(changes)


def test_a_key_changes_with_every_field_of_its_subject(key: Key) -> None:
    others = {name: Key({**key.subject, name: "another"}, key.circumstances).digest for name in key.subject}
    assert len({key.digest, *others.values()}) == 1 + len(key.subject)
    assert {"device_name", "host", "data", "edge_width", "node_width", "device"} < key.subject.keys()


def test_a_key_changes_with_the_data_and_the_machine(
    key: Key, small_stream: EventStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert small_stream.edge_features is not None
    later = replace(small_stream, t=small_stream.t + 1)
    other = replace(small_stream, edge_features=small_stream.edge_features * 2)
    wider = replace(small_stream, num_nodes=small_stream.num_nodes + 1)
    keys = {Key.of(CONFIG, stream).digest for stream in (small_stream, later, other, wider)}
    monkeypatch.setattr(key_module, "cores", lambda: 77)
    moved = Key.of(CONFIG, small_stream)
    assert moved.subject["device_name"] == f"cpu: {moved.subject['host']}"
    assert moved.subject["host"].endswith(", 77 logical CPUs")
    assert len({*keys, moved.digest}) == 5


@pytest.mark.usefixtures("gpu")
def test_the_key_of_a_gpu_has_its_name_and_driver(small_stream: EventStream, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG.with_flags({"device": "cuda"})
    with monkeypatch.context() as context:
        context.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(ConfigError, match="torch sees no GPU here"):
            Key.of(config, small_stream)
    output = subprocess.CompletedProcess([], 0, stdout="570.86.15\n570.86.15\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: output)
    key = Key.of(config, small_stream)
    assert (key.subject["device_name"], key.subject["device"]) == ("a GPU", "cuda")
    assert key.circumstances["driver"] == "570.86.15"

    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", missing)
    assert Key.of(config, small_stream).circumstances["driver"] == "unknown"


@pytest.mark.usefixtures("gpu")
def test_auto_has_the_key_of_the_device_it_resolves_to(
    small_stream: EventStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {device: Key.of(CONFIG.with_flags({"device": device}), small_stream) for device in ("auto", "cuda", "cpu")}
    assert keys["auto"] == keys["cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Key.of(CONFIG, small_stream) == keys["cpu"]
    assert keys["cpu"].digest != keys["cuda"].digest


def test_the_kernels_digest_covers_file_names_and_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, copy = kernel_sources(), tmp_path / "kernels"
    shutil.copytree(kernels.__path__[0], copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(kernels, "__path__", [str(copy)])
    assert kernel_sources() == before
    (copy / "numbers" / "philox.py").rename(copy / "sampling" / "philox.py")
    renamed = kernel_sources()
    (copy / "sampling" / "philox.py").write_text("changed = True\n")
    assert len({before, renamed, kernel_sources()}) == 3
