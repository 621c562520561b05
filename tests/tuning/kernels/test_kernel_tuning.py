"""Tuning of kernels in the interpreter, with times that are made up from the configurations in force."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mspipe_triton.errors import TuningError
from mspipe_triton.kernels import gather_rows
from mspipe_triton.kernels.runtime import launch
from mspipe_triton.kernels.runtime.compiling import Resources
from mspipe_triton.kernels.runtime.launch import VARIANTS_CHOSEN, Config, Kernel
from mspipe_triton.tuning.kernels import gate
from mspipe_triton.tuning.kernels import tune as kernels_tuned
from mspipe_triton.tuning.kernels.calls import Call
from mspipe_triton.tuning.kernels.operations import recorded
from mspipe_triton.tuning.study.search import Told
from tests.tuning.kernels.kernel_case import RECENT, blocks, sampled, tuned

pytestmark = pytest.mark.skipif(launch.triton is None, reason="triton has no wheel for this platform")


@pytest.fixture(autouse=True)
def _interpreter() -> Iterator[None]:
    launch.use_triton(True)
    yield
    launch.use_triton(None)


@pytest.fixture(scope="module")
def sampling() -> Call:
    launch.use_triton(True)
    return sampled()


@pytest.fixture(scope="module")
def gathering() -> Call:
    launch.use_triton(True)
    (call,) = recorded(lambda: gather_rows(torch.rand(5, 3), torch.tensor([4, 1])))
    return call


def test_a_faster_configuration_is_chosen_and_nothing_stays_changed(sampling: Call, tmp_path: Path) -> None:
    told: list[tuple[str, Told]] = []
    before = RECENT.config()
    choice = tuned([sampling], blocks, storage=tmp_path / "study.db", observe=lambda *what: told.append(what))
    chosen = choice.kernels["recent_kernel"]["float32"]
    assert choice.kernels.keys() == {"recent_kernel"}
    assert chosen["blocks"] == {"BLOCK": 128}
    assert {"blocks", "num_warps", "num_stages"} == chosen.keys()
    facts = choice.facts["kernels"]["recent_kernel float32"]
    assert facts["tuned"]
    assert facts["gain"] == pytest.approx(3.0)
    assert facts["noise"] == 0.0
    assert {name for name, _ in told} == {"recent_kernel float32"}
    assert told[0][1].point["BLOCK"] == 32, "the shipped one first"
    assert (tmp_path / "study.db").exists()
    assert RECENT.config() is before
    told.clear()
    again = tuned([sampling], lambda call: 1.0, storage=tmp_path / "study.db", observe=lambda *what: told.append(what))
    assert not told, "a resumed search knows all points"
    assert again.facts["kernels"]["recent_kernel float32"]["gain"] == 0.0, "but the best is measured again"
    assert again.kernels == {}
    choice.apply()
    try:
        assert RECENT.config() == Config(**chosen)
    finally:
        RECENT.chosen["float32"] = before


def test_a_wrong_kernel_is_never_chosen(sampling: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest block is one that comes out wrong."""
    run, told = Kernel.launch, list[Told]()

    def launched(kernel: Kernel, grid: tuple[int, ...], config: Config, *arguments: Any, **constants: Any) -> None:
        run(kernel, grid, config, *arguments, **constants)
        if config.blocks == {"BLOCK": 128}:
            arguments[6][-1] += 1

    monkeypatch.setattr(Kernel, "launch", launched)
    choice = tuned([sampling], blocks, observe=lambda _, trial: told.append(trial))
    assert choice.kernels["recent_kernel"]["float32"]["blocks"] == {"BLOCK": 64}
    wrong = [trial for trial in told if trial.point["BLOCK"] == 128]
    assert wrong
    assert all(trial.state == "failed" and "output 0 is off by" in trial.reason for trial in wrong)


def test_a_resumed_search_checks_its_best_again(
    sampling: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It was right in another process, with other kernels."""
    run, file = Kernel.launch, tmp_path / "study.db"
    assert tuned([sampling], blocks, 20.0, storage=file).kernels

    def launched(kernel: Kernel, grid: tuple[int, ...], config: Config, *arguments: Any, **constants: Any) -> None:
        run(kernel, grid, config, *arguments, **constants)
        if config["BLOCK"] > 32:
            arguments[6][-1] += 1

    monkeypatch.setattr(Kernel, "launch", launched)
    choice = tuned([sampling], blocks, storage=file)
    assert choice.kernels == {}
    assert "output 0 is off by" in choice.facts["kernels"]["recent_kernel float32"]["reason"]


def test_a_kernel_that_writes_less_is_never_chosen(sampling: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Kernel.launch

    def launched(kernel: Kernel, grid: tuple[int, ...], config: Config, *arguments: Any, **constants: Any) -> None:
        if config["BLOCK"] <= 32:
            run(kernel, grid, config, *arguments, **constants)

    monkeypatch.setattr(Kernel, "launch", launched)
    choice = tuned([sampling], blocks)
    assert choice.kernels == {}
    assert choice.facts["kernels"]["recent_kernel float32"]["reason"] == "the shipped one is the fastest"


def test_a_kernel_that_is_wrong_as_shipped_is_left_alone(sampling: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Kernel.launch

    def launched(kernel: Kernel, grid: tuple[int, ...], config: Config, *arguments: Any, **constants: Any) -> None:
        run(kernel, grid, config, *arguments, **constants)
        if launch._State.recorded is None:
            arguments[9][0] += 1

    monkeypatch.setattr(Kernel, "launch", launched)
    choice = tuned([sampling], blocks)
    assert choice.kernels == {}
    facts = choice.facts["kernels"]["recent_kernel float32"]
    assert facts["reason"] == "as shipped: sample_recent: output 3 is off by 1, where 0 is allowed"


def test_a_gain_within_the_noise_keeps_the_shipped(sampling: Call) -> None:
    """Every other time is a tenth longer, and the largest block saves a twentieth."""
    count = 0

    def noisy(call: Call) -> float:
        nonlocal count
        count += 1
        return (1.1 if count % 4 in (1, 2) else 1.0) * (0.95 if RECENT.config()["BLOCK"] == 128 else 1.0)

    choice = tuned([sampling], noisy)
    facts = choice.facts["kernels"]["recent_kernel float32"]
    assert choice.kernels == {}
    assert facts["reason"] == "the gain is within the noise"
    assert 0 < facts["gain"] < facts["noise"]


@pytest.mark.parametrize(("error", "when"), [(KeyboardInterrupt, 1), (OSError, 30)])
def test_what_was_in_force_comes_back_after_an_exception(sampling: Call, error: type[BaseException], when: int) -> None:
    """At the first measurement, and in the confirmation."""
    mine, count = Config({"BLOCK": 8}, num_warps=1), 0

    def breaking(call: Call) -> float:
        nonlocal count
        count += 1
        if count == 1:
            assert RECENT.config() is RECENT.configs["float32"][0], "the search begins with what ships"
        if count == when:
            raise error
        return blocks(call)

    shipped, RECENT.chosen["float32"] = RECENT.config(), mine
    VARIANTS_CHOSEN["memory_gru"] = "split"
    try:
        with pytest.raises(error):
            tuned([sampling], breaking)
        assert RECENT.config() is mine
        assert VARIANTS_CHOSEN["memory_gru"] == "split"
    finally:
        RECENT.chosen["float32"], VARIANTS_CHOSEN["memory_gru"] = shipped, "fused"


def test_an_interrupt_in_a_trial_passes_through(sampling: Call) -> None:
    def interrupted(call: Call) -> float:
        if RECENT.config()["BLOCK"] != 32:
            raise KeyboardInterrupt
        return 1.0

    shipped = dict(RECENT.chosen)
    with pytest.raises(KeyboardInterrupt):
        tuned([sampling], interrupted)
    assert RECENT.chosen == shipped


def test_kernels_come_by_their_share_of_time_and_budget(sampling: Call, gathering: Call) -> None:
    told: list[str] = []

    def seconds(call: Call) -> float:
        return 3.0 if call is gathering else 1.0

    choice = tuned([sampling, gathering], seconds, 40.0, observe=lambda name, _: told.append(name))
    facts = choice.facts["kernels"]
    assert list(facts) == ["gather_kernel float32", "recent_kernel float32"]
    assert told == sorted(told)
    assert told.count("gather_kernel float32") > told.count("recent_kernel float32") > 0
    assert [entry["share"] for entry in facts.values()] == [0.75, 0.25]
    assert facts["gather_kernel float32"]["trials"] <= 0.75 * 0.8 * 40, "a second each, a fifth for the rest"
    assert choice.facts["kernel_seconds"] <= 40


def test_without_time_nothing_is_tuned(sampling: Call) -> None:
    choice = tuned([sampling], blocks, 0.0)
    assert choice.kernels == {}
    assert choice.facts["kernels"]["recent_kernel float32"]["reason"] == "no time was left for it"


def test_a_lost_device_ends_the_search(sampling: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def seconds(call: Call) -> float:
        if RECENT.config()["BLOCK"] != 32:
            lost()
        return 1.0

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    with pytest.raises(TuningError, match=r"answers no more .*illegal memory access"):
        tuned([sampling], seconds)


def test_a_refused_configuration_is_never_run(sampling: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(made: Any, config: Config, capability: int) -> Resources:
        return Resources(255, 64 if config["BLOCK"] == 128 else 0, 0, "")

    def seconds(call: Call) -> float:
        assert RECENT.config()["BLOCK"] != 128
        return blocks(call)

    monkeypatch.setattr(gate, "compile_launch", compiled)
    monkeypatch.setattr(kernels_tuned, "compute_capability", lambda: 90)
    told: list[Told] = []
    choice = tuned([sampling], seconds, observe=lambda _, trial: told.append(trial))
    assert choice.kernels["recent_kernel"]["float32"]["blocks"] == {"BLOCK": 64}
    refused = [trial.reason for trial in told if trial.state == "refused"]
    assert refused
    assert set(refused) == {"its registers spill: 64 bytes of stack"}
