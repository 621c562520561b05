"""Measuring a run: gain and noise, the places of blocks, and the end of a measurement."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest

from mspipe_triton import EventStream, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.iteration.session import Session
from mspipe_triton.settings import default_settings, process_settings
from mspipe_triton.training.staged import Staged
from mspipe_triton.tuning.runs.measure import WARM, OutOfTime, RunMeasurer, stage_summary
from mspipe_triton.tuning.study.comparison import ROUNDS, Comparison, compare

CONFIG = RunConfig(model=ModelConfig(dim=8, fanout=3), train=TrainConfig(batch_size=50, threads=1, schedule="serial"))


@pytest.fixture
def measurer(small_stream: EventStream) -> RunMeasurer:
    shipped = replace(default_settings(CONFIG.train), fused=False)  # compiling takes longer than all the rest
    with process_settings(CONFIG):
        return RunMeasurer(Session.create(replace(CONFIG, settings=shipped), small_stream), shipped, seconds=0.01)


def rounds(gain: float, noise: float, count: int, seed: int) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    chance = random.Random(seed)

    def rate(mean: float) -> float:
        return mean * (1 + chance.gauss(0, noise))

    return [((rate(1 + gain), rate(1 + gain)), (rate(1.0), rate(1.0))) for _ in range(count)]


def test_gain_and_noise_of_a_comparison_by_hand() -> None:
    steady = [((11.0, 11.0), (10.0, 10.0))] * 5
    assert compare(steady) == (pytest.approx(0.1), 0.0)
    drifting = [((11.0, 11.0), (10.5, 10.0))] * 5  # the two shipped rates differ by 5 %, always in the same direction
    gain, noise = compare(drifting)
    assert gain == pytest.approx(22 / 20.5 - 1)
    assert noise == pytest.approx(max(0.05, 2.5 * 1.4826 * 0.05 / 10**0.5))
    alternating = [((10.0, 10.0), (10.0 + 0.2 * sign, 10.0)) for sign in (-1, 1, -1, 1)]
    assert compare(alternating)[1] == pytest.approx(2.5 * 1.4826 * 0.02 / 8**0.5)


def test_noise_rarely_counts_as_a_gain_and_a_gain_is_rarely_missed() -> None:
    def better(gain: float) -> int:
        return sum(Comparison(rounds(gain, 0.05, 7, seed)).better for seed in range(400))

    assert better(0.0) < 40  # one in ten: one side of two standard errors, with an estimated spread
    assert better(0.2) > 380
    assert better(-0.2) == 0


def test_too_few_rounds_decide_nothing() -> None:
    few = Comparison(((((20.0, 20.0)), (10.0, 10.0)),) * (ROUNDS - 1))
    assert not few.better
    assert few.to_json()["gain"] == 1.0
    assert Comparison(()).to_json() == {
        "events_per_s": None, "shipped_events_per_s": None, "gain": None, "noise": None, "rounds": 0,
    }  # fmt: skip


def test_stretches_are_spread_over_the_training_events(measurer: RunMeasurer) -> None:
    places = [measurer.place() for _ in range(40)]
    assert measurer.batches == 16
    assert set(places) == set(range(16))


def test_a_block_measures_rate_and_stage_times(measurer: RunMeasurer) -> None:
    measurer.warm_up()
    assert measurer.stages == {}
    start = time.perf_counter()
    rate = measurer.block(measurer.shipped, 0)
    assert rate > measurer.iterations * measurer.size / (time.perf_counter() - start)
    (stages,) = measurer.stages.values()
    assert list(stages) == ["sample", "features", "memory", "train", "update"]
    assert {len(seconds) for seconds in stages.values()} == {measurer.iterations}
    assert _share(measurer, rate) <= 1
    shares = (_share(measurer, measurer.block(measurer.shipped, 0)) for _ in range(20))
    assert any(share > 0.7 for share in shares), "a busy machine may pause it between two stages"


def _share(measurer: RunMeasurer, rate: float) -> float:
    """Return the share of the last block's time that its stages used."""
    (stages,) = measurer.stages.values()
    total = sum(sum(seconds[-measurer.iterations :]) for seconds in stages.values())
    return total * rate / (measurer.iterations * measurer.size)


def test_batches_start_at_a_place_wrap_around_and_last_until_the_clock_stops(measurer: RunMeasurer) -> None:
    def starts(schedule: str) -> list[int]:
        settings = replace(measurer.shipped, schedule=schedule, prefetch=6)
        items = list(Staged(measurer.session.under(settings)).stretch(14, WARM + measurer.iterations))
        assert [item.index for item in items] == list(range(len(items)))
        assert all(item.stop - item.start == 50 == item.negatives.numel() for item in items)
        dst = measurer.session.stream.dst
        assert all(bool((item.negatives != dst[item.start : item.stop, None]).all()) for item in items)
        return [item.start for item in items]

    assert starts("serial") == [700, 750, 0, 50, 100, 150]
    assert len(starts("prefetch")) == 6 + 2 * 6 + 4


def test_both_sides_run_in_turns_on_the_same_stretch(measurer: RunMeasurer, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[tuple[str, int]] = []
    other = replace(measurer.shipped, schedule="exact")

    def block(settings: object, place: int) -> float:
        blocks.append(("other" if settings == other else "shipped", place))
        return 1.0

    monkeypatch.setattr(measurer, "block", block)
    assert len(measurer.head_to_head(other, 0.0, min_rounds=2).rounds) == 2
    assert [side for side, _ in blocks] == ["shipped", "other"] * 2 + ["other", "shipped"] * 2
    assert len({place for _, place in blocks[:4]}) == len({place for _, place in blocks[4:]}) == 1


def test_the_deadline_ends_a_block_and_a_comparison_keeps_complete_rounds(measurer: RunMeasurer) -> None:
    measurer.until = time.perf_counter()
    with pytest.raises(OutOfTime):
        measurer.block(measurer.shipped, 0)
    assert measurer.head_to_head(measurer.shipped, 1.0).rounds == ()
    assert measurer.stages == {}


def test_stage_summary() -> None:
    summary = stage_summary({"train": [float(value) for value in range(1, 11)], "update": [2.0]})
    assert summary["train"] == {"median": 5.5, "p90": 10.0, "mean": 5.5}
    assert summary["update"] == {"median": 2.0, "p90": 2.0, "mean": 2.0}
