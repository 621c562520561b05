"""Tuning of kernels in the interpreter, with times simulated from the configurations in force."""

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
from mspipe_triton.tuning.kernels import tune as kernel_tuning
from mspipe_triton.tuning.kernels.calls import Call
from mspipe_triton.tuning.kernels.operations import record_calls
from mspipe_triton.tuning.study.search import Trial
from tests.tuning.kernels.kernel_case import RECENT, block_seconds, sampler_call, tune

pytestmark = pytest.mark.skipif(launch.triton is None, reason="triton has no wheel for this platform")


@pytest.fixture(autouse=True)
def _interpreter() -> Iterator[None]:
    launch.use_triton(True)
    yield
    launch.use_triton(None)


@pytest.fixture(scope="module")
def sampling() -> Call:
    launch.use_triton(True)
    return sampler_call()


@pytest.fixture(scope="module")
def gathering() -> Call:
    launch.use_triton(True)
    (call,) = record_calls(lambda: gather_rows(torch.rand(5, 3), torch.tensor([4, 1])))
    return call


def test_a_faster_configuration_is_chosen_and_the_state_is_restored(sampling: Call, tmp_path: Path) -> None:
    trials: list[tuple[str, Trial]] = []
    before = RECENT.config()
    choice = tune([sampling], block_seconds, storage=tmp_path / "study.db", observe=lambda *row: trials.append(row))
    config = choice.kernels["recent_kernel"]["float32"]
    assert choice.kernels.keys() == {"recent_kernel"}
    assert config["blocks"] == {"BLOCK": 128}
    assert {"blocks", "num_warps", "num_stages"} == config.keys()
    facts = choice.facts["kernels"]["recent_kernel float32"]
    assert facts["tuned"]
    assert facts["gain"] == pytest.approx(3.0)
    assert facts["noise"] == 0.0
    assert {name for name, _ in trials} == {"recent_kernel float32"}
    assert trials[0][1].point["BLOCK"] == 32, "the shipped one first"
    assert (tmp_path / "study.db").exists()
    assert RECENT.config() is before
    trials.clear()
    resumed = tune([sampling], lambda call: 1.0, storage=tmp_path / "study.db", observe=lambda *row: trials.append(row))
    assert not trials, "a resumed search has tried all points"
    assert resumed.facts["kernels"]["recent_kernel float32"]["gain"] == 0.0, "but the best is measured again"
    assert resumed.kernels == {}
    choice.apply()
    try:
        assert RECENT.config() == Config(**config)
    finally:
        RECENT.chosen["float32"] = before


def test_a_wrong_kernel_is_never_chosen(sampling: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest block gives a wrong result."""
    run, trials = Kernel.launch, list[Trial]()

    def faulty_launch(kernel: Kernel, grid: tuple[int, ...], config: Config, *arguments: Any, **constants: Any) -> None:
        run(kernel, grid, config, *arguments, **constants)
        if config.blocks == {"BLOCK": 128}:
            arguments[6][-1] += 1

    monkeypatch.setattr(Kernel, "launch", faulty_launch)
    choice = tune([sampling], block_seconds, observe=lambda _, trial: trials.append(trial))
    assert choice.kernels["recent_kernel"]["float32"]["blocks"] == {"BLOCK": 64}
    wrong = [trial for trial in trials if trial.point["BLOCK"] == 128]
    assert wrong
    assert all(trial.state == "failed" and "output 0 is off by" in trial.reason for trial in wrong)


def test_a_resumed_search_checks_its_best_again(
    sampling: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The best was right in another process, with other kernels."""
    run, file = Kernel.launch, tmp_path / "study.db"
    assert tune([sampling], block_seconds, 20.0, storage=file).kernels

    def faulty_launch(kernel: Kernel, grid: tuple[int, ...], config: Config, *arguments: Any, **constants: Any) -> None:
        run(kernel, grid, config, *arguments, **constants)
        if config["BLOCK"] > 32:
            arguments[6][-1] += 1

    monkeypatch.setattr(Kernel, "launch", faulty_launch)
    choice = tune([sampling], block_seconds, storage=file)
    assert choice.kernels == {}
    assert "output 0 is off by" in choice.facts["kernels"]["recent_kernel float32"]["reason"]


def test_a_kernel_that_leaves_outputs_unwritten_is_never_chosen(
    sampling: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Kernel.launch

    def faulty_launch(kernel: Kernel, grid: tuple[int, ...], config: Config, *arguments: Any, **constants: Any) -> None:
        if config["BLOCK"] <= 32:
            run(kernel, grid, config, *arguments, **constants)

    monkeypatch.setattr(Kernel, "launch", faulty_launch)
    choice = tune([sampling], block_seconds)
    assert choice.kernels == {}
    assert choice.facts["kernels"]["recent_kernel float32"]["reason"] == "the shipped one is the fastest"


def test_a_kernel_that_is_wrong_as_shipped_is_not_tuned(sampling: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Kernel.launch

    def faulty_launch(kernel: Kernel, grid: tuple[int, ...], config: Config, *arguments: Any, **constants: Any) -> None:
        run(kernel, grid, config, *arguments, **constants)
        if launch._State.recorded is None:
            arguments[9][0] += 1

    monkeypatch.setattr(Kernel, "launch", faulty_launch)
    choice = tune([sampling], block_seconds)
    assert choice.kernels == {}
    facts = choice.facts["kernels"]["recent_kernel float32"]
    assert facts["reason"] == "as shipped: sample_recent: output 3 is off by 1, where 0 is allowed"


def test_a_gain_within_the_noise_keeps_the_shipped_configuration(sampling: Call) -> None:
    """Half of the times are 10 % longer, and the largest block saves 5 %."""
    count = 0

    def noisy(call: Call) -> float:
        nonlocal count
        count += 1
        return (1.1 if count % 4 in (1, 2) else 1.0) * (0.95 if RECENT.config()["BLOCK"] == 128 else 1.0)

    choice = tune([sampling], noisy)
    facts = choice.facts["kernels"]["recent_kernel float32"]
    assert choice.kernels == {}
    assert facts["reason"] == "the gain is within the noise"
    assert 0 < facts["gain"] < facts["noise"]


@pytest.mark.parametrize(("error", "when"), [(KeyboardInterrupt, 1), (OSError, 30)])
def test_the_state_is_restored_after_an_exception(sampling: Call, error: type[BaseException], when: int) -> None:
    """At the first measurement, and in the confirmation."""
    current, count = Config({"BLOCK": 8}, num_warps=1), 0

    def breaking(call: Call) -> float:
        nonlocal count
        count += 1
        if count == 1:
            assert RECENT.config() is RECENT.configs["float32"][0], "the search starts with the shipped one"
        if count == when:
            raise error
        return block_seconds(call)

    shipped, RECENT.chosen["float32"] = RECENT.config(), current
    VARIANTS_CHOSEN["memory_gru"] = "split"
    try:
        with pytest.raises(error):
            tune([sampling], breaking)
        assert RECENT.config() is current
        assert VARIANTS_CHOSEN["memory_gru"] == "split"
    finally:
        RECENT.chosen["float32"], VARIANTS_CHOSEN["memory_gru"] = shipped, "fused"


def test_an_interrupt_in_a_trial_is_raised(sampling: Call) -> None:
    def interrupt(call: Call) -> float:
        if RECENT.config()["BLOCK"] != 32:
            raise KeyboardInterrupt
        return 1.0

    shipped = dict(RECENT.chosen)
    with pytest.raises(KeyboardInterrupt):
        tune([sampling], interrupt)
    assert RECENT.chosen == shipped


def test_kernels_are_ordered_and_given_budget_by_their_time(sampling: Call, gathering: Call) -> None:
    names: list[str] = []

    def seconds(call: Call) -> float:
        return 3.0 if call is gathering else 1.0

    choice = tune([sampling, gathering], seconds, 40.0, observe=lambda name, _: names.append(name))
    facts = choice.facts["kernels"]
    assert list(facts) == ["gather_kernel float32", "recent_kernel float32"]
    assert names == sorted(names)
    assert names.count("gather_kernel float32") > names.count("recent_kernel float32") > 0
    assert [entry["share"] for entry in facts.values()] == [0.75, 0.25]
    assert facts["gather_kernel float32"]["trials"] <= 0.75 * 0.8 * 40, "one second each, and 20 % for the rest"
    assert choice.facts["kernel_seconds"] <= 40


def test_without_a_budget_nothing_is_tuned(sampling: Call) -> None:
    choice = tune([sampling], block_seconds, 0.0)
    assert choice.kernels == {}
    assert choice.facts["kernels"]["recent_kernel float32"]["reason"] == "no time was left for it"


def test_a_lost_device_ends_the_search(sampling: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def seconds(call: Call) -> float:
        if RECENT.config()["BLOCK"] != 32:
            fail()
        return 1.0

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    with pytest.raises(TuningError, match=r"no longer answers .*illegal memory access"):
        tune([sampling], seconds)


def test_a_refused_configuration_is_never_run(sampling: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_launch(launch: Any, config: Config, capability: int) -> Resources:
        return Resources(255, 64 if config["BLOCK"] == 128 else 0, 0, "")

    def seconds(call: Call) -> float:
        assert RECENT.config()["BLOCK"] != 128
        return block_seconds(call)

    monkeypatch.setattr(gate, "compile_launch", compile_launch)
    monkeypatch.setattr(kernel_tuning, "compute_capability", lambda: 90)
    trials: list[Trial] = []
    choice = tune([sampling], seconds, observe=lambda _, trial: trials.append(trial))
    assert choice.kernels["recent_kernel"]["float32"]["blocks"] == {"BLOCK": 64}
    reasons = [trial.reason for trial in trials if trial.state == "refused"]
    assert reasons
    assert set(reasons) == {"its registers spill: 64 bytes of stack"}
