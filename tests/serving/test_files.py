"""Saved predictors and run folders: round trips, damage, moved and changed data, and runs of every kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mspipe_triton import Predictor, load
from mspipe_triton.data.events import EventStream
from mspipe_triton.errors import InputError
from mspipe_triton.serving import files
from tests.serving.served import columns, shop, trained

WEB = {"amount": 1.5, "channel": "web"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a file of purchases, beside which the file is."""
    return shop(tmp_path_factory.mktemp("shop"), dtype="float64")


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of it, which a test may damage."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def same(one: Predictor, other: Predictor, tolerance: float = 1e-9) -> None:
    """Check that two predictors are the same, but for the order of additions."""
    assert (len(one), one.time, one.nodes, one.kinds) == (len(other), other.time, other.nodes, other.kinds)
    np.testing.assert_allclose(one.embed(), other.embed(), rtol=tolerance, atol=tolerance)
    source = one.nodes[0][1] if one.kinds else one.nodes[0]
    ranks, others = (dict(each.rank(source, top=None)) for each in (one, other))
    np.testing.assert_allclose([ranks[each] for each in others], list(others.values()), rtol=tolerance, atol=tolerance)


def refusal(*arguments: Any, **options: Any) -> str:
    """The message of a load that is refused."""
    with pytest.raises(InputError) as caught:
        load(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("model", "settings"),
    [("tgn", {}), ("tgn", {"precision": "bf16", "layers": 2}), ("jodie", {}), ("apan", {}), ("tgat", {})],
)
@pytest.mark.parametrize("at", [None, "training", 3])
def test_a_predictor_is_restored(
    at: Any, model: str, settings: dict[str, Any], small_stream: EventStream, tmp_path: Path
) -> None:
    tolerance = 0.05 if "precision" in settings else 1e-9  # rounding may differ in the last place of bf16
    features = torch.arange(90.0).view(90, 1).expand(90, 2) / 90
    stream = replace(small_stream, node_features=features.contiguous())
    run = trained(tmp_path, stream, model, "float32" if settings else "float64", **settings)
    predictor = load(run, stream=stream, at=int(stream.t[at]) if isinstance(at, int) else at)
    predictor.save(tmp_path / "early")
    same(load(tmp_path / "early"), predictor, tolerance)
    new = {"src": [1, 5000, 5000], "dst": [70, 71, 5000], "t": predictor.time, "features": np.ones((3, 3))}
    predictor.observe(**new)
    predictor.save(str(tmp_path / "saved"))
    saved = load(str(tmp_path / "saved"))
    same(saved, predictor, tolerance)
    for each in (saved, predictor):
        each.observe(**columns(stream, len(stream) - 40, len(stream)) if at is None else new, late="drop")
        each.observe(5001, 70, each.time, np.ones(3))
    same(saved, predictor, tolerance)
    saved.save(tmp_path / "saved")
    same(load(tmp_path / "saved"), predictor, tolerance)


def test_ids_dates_and_categories_are_kept(run: Path, tmp_path: Path) -> None:
    predictor = load(run)
    predictor.observe(["zoe", "u1"], [100, 999], "2024-04-01", [WEB, {**WEB, "channel": "phone"}])
    predictor.save(tmp_path / "saved")
    saved = load(tmp_path / "saved")
    same(saved, predictor)
    assert (saved.time, saved.kinds, saved.nodes[-2:]) == (
        "2024-04-01",
        ("user", "item"),
        [("user", "zoe"), ("item", 999)],
    )
    assert saved.score("zoe", "999", "2024-04-02") == predictor.score("zoe", 999, "2024-04-02")
    for each in (saved, predictor):
        each.observe("new", 1000, "2024-04-02", WEB)
    same(saved, predictor)
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        "README.md", "events.safetensors", "model.json", "model.safetensors", "nodes.parquet",
    ]  # fmt: skip
    assert "shop.csv" not in (tmp_path / "saved" / "model.json").read_text()


def test_only_a_saved_predictor_is_replaced(run: Path, copy: Path, tmp_path: Path) -> None:
    predictor = load(run)
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for place in (copy, tmp_path / "notes", tmp_path / "file"):
        with pytest.raises(InputError, match=r"holds something else; name a new folder, or one that a predictor was"):
            predictor.save(place)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["README.md"]
    with pytest.raises(InputError, match=r"file/inner: cannot be written: "):
        predictor.save(tmp_path / "file" / "inner")
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "new" / "deep"):
        predictor.save(place)
        same(load(place), predictor)


@pytest.mark.parametrize("part", ["model.safetensors", "events.safetensors"])
def test_a_save_that_fails_leaves_the_former_one(
    part: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, former = load(run, at="training"), load(run)
    former.save(tmp_path / "saved")

    def full(tensors: Any, path: Path, *rest: Any) -> None:
        if part in str(path):
            raise OSError(28, "No space left on device")
        save_file(tensors, path, *rest)

    monkeypatch.setattr(files, "save_file", full)
    monkeypatch.setattr("mspipe_triton.models.stored.save_file", full)
    for place in ("saved", "new"):
        with pytest.raises(InputError, match=rf"{place}: cannot be written: No space left on device$"):
            predictor.save(tmp_path / place)
    same(load(tmp_path / "saved"), former)
    monkeypatch.undo()
    for place in ("saved", "new"):
        predictor.save(tmp_path / place)
        same(load(tmp_path / place), predictor)


def test_a_saved_predictor_has_one_state(run: Path, tmp_path: Path) -> None:
    load(run).save(tmp_path / "saved")
    for options in ({"at": "2024-03-10"}, {"at": "training"}, {"data": "shop.csv"}):
        assert refusal(tmp_path / "saved", **options) == (
            f"{tmp_path / 'saved'}: holds a saved predictor, of one state; omit at, data and stream, or name the run"
        )


def damages(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every way to damage a folder: a file removed, empty, cut in two, of bytes; entries and tensors missing."""
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        yield f"without {path.name}", path.unlink
        if path.suffix != ".md":
            for part in (b"", content[: len(content) // 2], b"\x00" * 64, b"[]", b"{}", b"5"):
                yield f"{path.name} is {part[:4]!r}", lambda path=path, part=part: path.write_bytes(part)
    settings = folder / "model.json"
    everything = json.loads(settings.read_text())
    for name in everything:
        for change in ({}, {name: None}, {name: []}, {name: "x"}):
            rest = {each: value for each, value in everything.items() if each != name} | change
            yield f"{name} is {change}", lambda rest=rest: settings.write_text(json.dumps(rest))
    for name in ("kinds", "time_scale", "features", "dim_edge", "roles", "time", "name"):
        part = {each: value for each, value in everything["stream"].items() if each != name}
        yield f"stream without {name}", lambda part=part: settings.write_text(json.dumps(everything | {"stream": part}))
    for path in sorted(folder.glob("*.safetensors")):
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
        for name, tensor in tensors.items():
            rest = {each: value for each, value in tensors.items() if each != name}
            yield f"without {name}", lambda rest=rest, path=path: save_file(rest, path)
            yield (
                f"{name} is short",
                lambda rest=rest, path=path, name=name, tensor=tensor: save_file(
                    rest | {name: tensor.flatten()[:-1]}, path
                ),
            )


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("of", ["saved", "run"])
def test_a_damaged_folder_is_refused(of: str, step: int, run: Path, tmp_path: Path) -> None:
    """Damage a folder in every way, or in one of `step` ways."""
    whole = tmp_path / "whole"
    if of == "saved":
        load(run).save(whole)
    else:
        whole.mkdir()
        for path in run.iterdir():
            if path.name in ("model.json", "model.safetensors", "config.toml", "checkpoint.pt"):
                shutil.copy(path, whole)
    fine = []
    for place, (name, _) in list(enumerate(damages(whole)))[::step]:
        broken = Path(shutil.copytree(whole, tmp_path / str(place)))
        next(act for number, (_, act) in enumerate(damages(broken)) if number == place)()
        with suppress(InputError):  # any other error fails the test
            load(broken)
            fine.append(name)
        shutil.rmtree(broken)
    unread = [
        "mspipe_triton is",
        "stream without kinds",
        *(["events is", "stream without name"] if of == "run" else []),
    ]
    assert not [name for name in fine if not name.startswith(tuple(unread))]
