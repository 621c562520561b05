"""The resident report and the count of launches: what they count, what they say, and how they go on after a failure."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu_resident, launches
from bench.cases import work
from bench.gpu_resident import FILE, Unit, units
from bench.gpu_resident_checks import VARIANTS
from bench.gpu_resident_floor import PARTS, iteration_work
from bench.gpu_resident_setup import MODELS, SIZES, STREAMS, TINY, WAYS, drawn, of_shape, resident, session
from bench.gpu_resident_stages import Stages
from bench.gpu_resident_table import finished, targets
from bench.gpu_resident_trace import MARK, counted
from mspipe_triton.kernels import gather_rows, launch


@pytest.mark.usefixtures("interpreter")
def test_launches_are_what_writes_memory() -> None:
    numbers = torch.ones(4, 2)

    def step() -> None:
        torch.empty(3)
        torch.empty(0).add_(1)  # has nothing to write
        numbers.view(2, 4).t()[1:].unsqueeze(0).detach()
        numbers.add_(1)
        torch._foreach_copy_([numbers], [torch.zeros(4, 2)])
        gather_rows(numbers, torch.tensor([1, 3]))

    found = launches.launches(step)
    assert found == {"aten::add_": 1, "aten::zeros": 1, "aten::_foreach_copy_": 1, "gather_kernel": 1}


def test_launches_of_a_step_are_counted_inside_our_operations_and_in_the_backward_pass() -> None:
    if launch.triton is None:
        pytest.skip("triton has no wheel for this platform")
    found = launches.of_model("jodie")
    assert found["aten::_fused_adam_"] == found["batch_kernel"] == found["link_backward_kernel"] == 1
    assert not any(name.startswith("mspipe_triton") for name in found)
    counts = launches.summary(found)
    assert counts["total"] == counts["triton"] + counts["torch"] == sum(found.values())
    assert counts["triton"] == sum(count for name, count in found.items() if name in launch.KERNELS)


def test_a_trace_is_counted_between_the_marks() -> None:
    def event(kind: str, name: str, at: float, lasts: float = 1.0) -> dict[str, Any]:
        return {"ph": "X", "cat": kind, "name": name, "ts": at, "dur": lasts}

    events = [
        {"ph": "M", "name": "process_name"},
        event("user_annotation", MARK, 100, 50),
        event("gpu_user_annotation", MARK, 105, 60),
        event("cuda_runtime", "cudaGraphLaunch", 110),
        event("cuda_runtime", "cudaDeviceSynchronize", 160),  # the profiler's own, after the mark
        *(event("kernel", "a", at, 2.0) for at in (120, 130, 140, 170)),
        *(event("gpu_memcpy", "Memcpy DtoD (Device -> Device)", at) for at in (125, 175)),
    ]
    found = counted(events, 2)
    assert (found["nodes"], found["waits"], found["to_host"]) == (3, [], 0)
    assert found["kernels"]["a"] == {"count": 2, "microseconds": 4}
    assert found["device_seconds"] == pytest.approx(5e-6)
    waiting = [event("cuda_runtime", "cudaStreamSynchronize", 149), event("gpu_memcpy", "Memcpy DtoH (...)", 180)]
    found = counted([*events, *waiting], 2)
    assert (found["nodes"], found["waits"], found["to_host"]) == (None, ["cudaStreamSynchronize"], 1)


def test_the_floor_of_an_iteration_is_that_of_its_operations() -> None:
    least = [work(name, TINY) for name in PARTS["tgn"][0]]
    moved, flops = iteration_work("tgn", TINY, parameters=10)
    assert moved == sum(each.bytes + each.backward_bytes for each in least) + 10 * 7 * 4
    assert flops == sum(each.flops + each.backward_flops for each in least)
    # JODIE updates the roots alone, and reads no neighbours.
    assert iteration_work("jodie", TINY, 10)[1] < work("memory_rnn", TINY).flops * 2 + work("link_loss", TINY).flops * 3
    assert iteration_work("apan", TINY, 10)[0] > iteration_work("apan", TINY, 0)[0] > 0


def test_a_stream_is_the_scene_s() -> None:
    stream = drawn("TINY", True)
    assert (len(stream), stream.dim_edge, stream.num_nodes) == (TINY.events, TINY.features, TINY.nodes)
    assert bool((stream.t.diff() >= 0).all())


def test_stages_in_turn_are_a_step() -> None:
    stream, losses = drawn("TINY", True), []
    for taken in (True, False):
        made = resident(session(stream, "cpu", 40, of_shape("apan", TINY), WAYS["launched"]))
        steps = made.training()
        count, stages = steps.start(0, 120, 1), Stages(steps).by_name().values()
        for _ in range(count):
            for run in stages if taken else [steps.step]:
                run()
        losses.append(steps.losses[:count].clone())
    assert torch.equal(*losses)
    assert losses[0].isfinite().all()


def test_units_cover_what_is_asked_for() -> None:
    every = units("cuda", quick=False)
    assert {unit.case for unit in every if unit.part == "losses"} == {(name, way) for name in VARIANTS for way in WAYS}
    timed = [unit.case for unit in every if unit.part == "steps"]
    assert sorted(timed) == sorted((name, size, kind) for name in STREAMS for size in SIZES for kind in MODELS)
    assert timed[:4] == [("WIKI", size, "tgn") for size in SIZES]  # which the targets are about
    last_check = max(place for place, unit in enumerate(every) if unit.checks)
    assert all(unit.checks for unit in every[:last_check])


def row(size: int, milliseconds: float) -> dict[str, Any]:
    return {
        "stream": "WIKI", "model": "tgn", "precision": "tf32", "batch_size": size, "events": size, "bytes": 1e6,
        "flops": 1e6, "seconds": {"p50": 1e-3 * milliseconds},
    }  # fmt: skip


def test_targets_stand_beside_what_was_measured() -> None:
    ceilings = {"device": "a GPU", "threads": 1, "bytes_per_s": 1e12, "flops_per_s": {"tf32": 1e14}}
    measured = {
        "roofline": ceilings, "steps": [row(600, 0.19), row(4000, 0.6)], "pyg": [{"batch_size": 600, "ratio": 50.0}],
        "profiles": [{"model": "tgn", "batch_size": 600, "nodes": 41}],
    }  # fmt: skip
    found = finished({"measured": measured})
    assert [target["met"] for target in found["targets"]] == [True, False, True, False]
    assert found["targets"][1]["measured"] == pytest.approx(4000 / 0.6e-3)
    assert found["measured"]["steps"][0]["share_of_floor"] == pytest.approx(1e-6 / 0.19e-3)
    assert all(target["met"] is target["measured"] is None for target in targets({}))


def _passes(setup: Any, *case: Any) -> Iterator[Any]:
    yield "correctness", {"check": "fine", "passed": True}


def _breaks(setup: Any, *case: Any) -> Iterator[Any]:
    yield "steps", row(600, 1.0)
    raise RuntimeError("no such luck")


def _given(out: Path, made: list[Unit], until: float) -> Namespace:
    return Namespace(
        out=out, units=made, until=until, from_unit=0, device="cpu", quick=True, data="synthetic", commit="abc",
        seconds=until - time.time(),
    )  # fmt: skip


def test_a_unit_that_breaks_is_recorded_and_the_others_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = [Unit("a", _breaks, (600,)), Unit("b", _breaks, (), checks=True), Unit("c", _passes, ())]
    empty: dict[str, Any] = {"correctness": [], "measured": {}, "skipped": [], "next": 0}
    gpu_resident.write(tmp_path, empty)
    assert gpu_resident.work(_given(tmp_path, made, time.time() + 60)) == 0
    report = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    assert len(report["measured"]["steps"]) == 2  # what there was before
    assert report["measured"]["failed"] == [{"part": "a", "case": "600", "message": "RuntimeError: no such luck"}]
    assert [(check["check"], check["passed"]) for check in report["correctness"]] == [("b", False), ("fine", True)]
    gpu_resident.write(tmp_path, empty)
    gpu_resident.work(_given(tmp_path, made, time.time() - 1))
    report = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    assert [skipped["part"] for skipped in report["skipped"]] == ["a", "b", "c"]
    assert report["correctness"] == []


@pytest.mark.parametrize("before", [0, 2])
def test_after_a_process_that_ended_another_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], before: int
) -> None:
    given, began = _given(tmp_path, [Unit("a", _passes, (name,)) for name in "xyz"], time.time() + 60), []
    given.from_unit = None

    def supervise(given: Namespace, first: int) -> str | None:
        """Ends in its second unit the first time, or before it has begun with any."""
        began.append(first)
        report = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
        if len(began) > 1 or not before:
            report["next"] = first if not before else len(given.units)
            gpu_resident.write(tmp_path, report)
            return None if before else "exit code 1"
        gpu_resident.write(tmp_path, {**report, "next": before, "running": "a y"})
        return "exit code -11\nwhere it was"

    monkeypatch.setattr(gpu_resident, "arguments", lambda: given)
    monkeypatch.setattr(gpu_resident, "supervise", supervise)
    assert gpu_resident.main() == 1
    report = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    assert began == ([0, 2] if before else [0])
    assert [check["case"] for check in report["correctness"]] == ["a y" if before else None]
    assert "next" not in report
    assert "running" not in report
    assert "1 failed" in capsys.readouterr().out


def test_a_process_is_cut_off_where_it_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = _given(tmp_path, [], time.time() + 60)
    gpu_resident.write(tmp_path, {"measured": {}})

    def python(code: str) -> Callable[[], None]:
        return lambda: monkeypatch.setattr(gpu_resident.sys, "executable", _script(tmp_path, code))

    monkeypatch.setattr(gpu_resident, "UNIT_SECONDS", 0.3)
    python("sleep 60")()
    assert str(gpu_resident.supervise(given, 0)).startswith("cut off after")
    monkeypatch.setattr(gpu_resident, "UNIT_SECONDS", 60.0)
    python("echo where it was >&2; exit 3")()
    assert gpu_resident.supervise(given, 0) == "exit code 3\nwhere it was\n"
    python(f"exit {gpu_resident.RENEW}")()
    assert gpu_resident.supervise(given, 0) is None


def _script(folder: Path, code: str) -> str:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{code}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)
