"""The verdict on a run: each fault and each advice on small results, and on runs of a few events."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.evaluation.verdict import verdict
from mspipe_triton.training.trainer import train

ERRORS = "(two standard errors)"
GOOD = {"ap": 0.9, "auc": 0.8, "mrr": 0.7}
FEW = (
    "Training had 2 iterations per epoch, 6 in all, which is few: try --batch-size 10 (140 per epoch) or more --epochs."
)


def result(
    test: dict[str, Any], bank: dict[str, float], train: int = 1400, size: int = 700, best: int = 2, epochs: int = 3,
    features: dict[str, float] | None = None,
) -> dict[str, Any]:  # fmt: skip
    weak = dict.fromkeys(("ap", "auc", "mrr"), 0.6)
    baselines = {
        "edgebank": {**weak, **bank}, "edgebank_window": weak, "popularity": weak,
        "pair_features": dict.fromkeys(weak, 0.4) | (features or {}),
    }  # fmt: skip
    return {
        "test": {**GOOD, **test, **baselines},
        "split_events": {"train": train, "val": 300, "test": 300},
        "batch_size": size, "epochs": epochs, "best_epoch": best, "protocol": "default",
        "model": "tgn", "patience": 0, "weight_decay": 0.0,
    }  # fmt: skip


def test_a_protocol_keeps_its_batch_size() -> None:
    few = result({}, {"ap": 0.95}, train=1400, size=200)
    assert "--batch-size" in verdict(few)[-1]
    assert "--batch-size" not in verdict({**few, "protocol": "tgb"})[-1]


def test_a_run_that_continues_another_keeps_its_model() -> None:
    behind = {"ap": 0.95, "auc": 0.95, "mrr": 0.95}
    long = {**result({}, {}, train=14_000, size=100, features=behind), "pair_features": False}
    for run, settings in ((long, True), ({**long, "history": 500}, False)):
        advice = verdict(run)[-1]
        assert ("--pair-features" in advice) == ("another --model" in advice) == settings
        assert "a smaller --lr" in advice


def test_a_good_run_has_no_notes() -> None:
    assert verdict(result({}, {})) == []
    assert verdict(result({"node": {"auc": 0.9, "events": 300, "positives": 30}}, {})) == []
    assert verdict(result({"node": {"auc": None, "events": 300, "positives": 0}}, {})) == []
    perfect = {"ap": 1.0, "auc": 1.0, "mrr": 1.0}
    assert verdict(result(perfect, perfect)) == []


@pytest.mark.parametrize(
    ("bank", "start", "scores"),
    [
        (
            {"mrr": 0.75},
            "beats the best baseline in AP and AUC, but not in MRR",
            "MRR 0.7000 against 0.7500 (EdgeBank)",
        ),
        ({"auc": 0.8}, "beats the best baseline in AP and MRR, but not in AUC", "AUC 0.8000 against 0.8000 (EdgeBank)"),
        (
            {"ap": 0.95, "auc": 0.9, "mrr": 0.9},
            "does not beat the best baseline",
            "AP 0.9000 against 0.9500 (EdgeBank), AUC 0.8000 against 0.9000 (EdgeBank), "
            "MRR 0.7000 against 0.9000 (EdgeBank)",
        ),
    ],
)
def test_scores_that_are_not_above_edgebank_are_named(bank: dict[str, float], start: str, scores: str) -> None:
    assert verdict(result({}, bank)) == [f"On test, the model {start}: {scores}.", FEW]


def test_each_score_is_compared_with_its_best_baseline() -> None:
    run = result({}, {"ap": 0.92})
    run["test"] |= {
        "edgebank_window": {"ap": 0.95, "auc": 0.1, "mrr": 0.1},
        "popularity": {"ap": 0.91, "auc": 0.85, "mrr": 0.1},
    }
    scores = "AP 0.9000 against 0.9500 (EdgeBank with a window), AUC 0.8000 against 0.8500 (popularity)"
    assert verdict(run) == [f"On test, the model beats the best baseline in MRR, but not in AP or AUC: {scores}.", FEW]


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({}, "try --pair-features, --batch-size 10 (140 per epoch) or more --epochs."),
        ({"train": 60_000, "size": 600, "best": 3}, "try --pair-features or --epochs 6; --resume continues this run."),
        ({"train": 60_000, "size": 600}, "try --pair-features, a smaller --lr or another --model."),
    ],
)
def test_a_model_without_pair_features_that_loses_against_them_is_told(options: dict[str, int], advice: str) -> None:
    run = result({}, {}, features={"mrr": 0.8}, **options)
    fault = "On test, the model beats the best baseline in AP and AUC, but not in MRR: MRR 0.7000 against 0.8000 (pair "
    fault += "features alone)."
    first, second = verdict(run)
    assert first == fault
    assert second.endswith(advice)
    assert "--pair-features" not in verdict({**run, "pair_features": True})[1]


def test_the_limit_of_chance_is_two_standard_errors() -> None:
    """Compare with the statistic's standard error over random orders of 20 positives and 30 negatives."""
    draws = torch.rand(20_000, 50, generator=torch.Generator().manual_seed(0))
    ranks = draws.argsort(1).argsort(1)[:, :20].double() + 1
    auc = (ranks.sum(1) - 20 * 21 / 2) / (20 * 30)
    limit = 0.5 + 2 * float(auc.std())
    # The standard deviation of n draws has a relative standard error of 1/√(2n); four of them.
    margin = 4 * 2 * float(auc.std()) / math.sqrt(2 * 20_000)

    def notes(auc: float) -> list[str]:
        return verdict(result({"node": {"auc": auc, "events": 50, "positives": 20}}, {}))

    assert notes(limit + margin) == []
    [fault, advice] = notes(limit - margin)
    assert fault == f"On test, the AUC of labels is {limit - margin:.4f}, no better than chance: 0.5 ± 0.1683 {ERRORS}."
    assert advice == FEW


def test_everything_at_once() -> None:
    bad = {"ap": 0.5, "auc": 0.51, "mrr": 0.1, "node": {"auc": 0.3, "events": 300, "positives": 100}}
    assert verdict(result(bad, {}, features={"mrr": 0.05})) == [
        "On test, the model does not beat the best baseline: AP 0.5000 against 0.6000 (EdgeBank), "
        "AUC 0.5100 against 0.6000 (EdgeBank), MRR 0.1000 against 0.6000 (EdgeBank).",
        f"On test, the AUC is 0.5100, no better than chance: 0.5 ± 0.0472 {ERRORS}.",
        f"On test, the AUC of labels is 0.3000, no better than chance: 0.5 ± 0.0708 {ERRORS}.",
        FEW,
    ]


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"train": 54_321, "size": 600, "best": 3}, "91 iterations per epoch, 273 in all, which is few: try "
         "--batch-size 300 (182 per epoch) or more --epochs."),
        ({"train": 70, "size": 70}, "1 iteration per epoch, 3 in all, which is few: try --batch-size 10 (7 per epoch) "
         "or more --epochs."),
        ({"train": 70, "size": 1}, "70 iterations per epoch, 210 in all, which is few: try more --epochs."),
        ({"train": 60_000, "size": 600, "best": 3}, "100 iterations per epoch, 300 in all, and its last epoch was the "
         "best: try --epochs 6; --resume continues this run."),
        ({"train": 600_000, "size": 600}, "1,000 iterations per epoch, 3,000 in all, and epoch 2 was the best: try a "
         "smaller --lr or another --model."),
    ],
)  # fmt: skip
def test_the_advice_follows_the_iterations_and_the_best_epoch(options: dict[str, int], advice: str) -> None:
    assert verdict(result({}, {"ap": 0.95}, **options))[1:] == [f"Training had {advice}"]


FALLING = "Validation AP has fallen since epoch 3 of 10: more epochs do not help"


@pytest.mark.parametrize(
    ("facts", "end"),
    [
        ({}, "; try --patience 3, --dropout 0.1 or --weight-decay 0.01."),
        ({"model": "jodie"}, "; try --patience 3 or --weight-decay 0.01."),
        ({"model": "of another package"}, "; try --patience 3 or --weight-decay 0.01."),
        ({"history": 500}, "; try --patience 3 or --weight-decay 0.01."),
        ({"patience": 7}, "; try --dropout 0.1 or --weight-decay 0.01."),
        ({"patience": 7, "weight_decay": 0.1, "model": "jodie"}, "."),
    ],
)
def test_an_overfitted_run_is_not_advised_to_train_for_longer(facts: dict[str, Any], end: str) -> None:
    few = {**result({}, {"ap": 0.95}, best=3, epochs=10), **facts}
    start = "Training had 2 iterations per epoch, 20 in all, which is few: try --batch-size 10 (140 per epoch)."
    assert verdict(few)[1] == f"{start} {FALLING}{end}"
    least = {**result({}, {"ap": 0.95}, train=70, size=1, best=3, epochs=10), **facts}
    assert verdict(least)[1] == f"Training had 70 iterations per epoch, 700 in all, which is few. {FALLING}{end}"
    other = "" if "history" in facts else " or another --model"
    many = {**result({}, {"ap": 0.95}, train=70_000, best=3, epochs=10), **facts}
    start = f"Training had 100 iterations per epoch, 1,000 in all: try a smaller --lr{other}."
    assert verdict(many)[1] == f"{start} {FALLING}{end}"


def test_an_epoch_after_the_best_one_says_little() -> None:
    assert verdict(result({}, {"ap": 0.95}, best=9, epochs=10))[1].endswith("(140 per epoch) or more --epochs.")
    assert (
        "since epoch 8 of 10: more epochs do not help; try --patience 2, "
        in (verdict(result({}, {"ap": 0.95}, best=8, epochs=10))[1])
    )


@given(st.integers(24, 10**6))
def test_a_smaller_batch_size_gives_about_200_iterations(size: int) -> None:
    events = 99 * size
    advice = verdict(result({}, {"ap": 0.95}, train=events, size=size))[1]
    smaller = int(advice.split("--batch-size ")[1].split()[0])
    assert smaller < size
    assert 100 < math.ceil(events / smaller) <= 300


def run(stream: EventStream, folder: Path, size: int, epochs: int) -> dict[str, Any]:
    config = RunConfig(
        model=ModelConfig(dim=16, fanout=4, pair_features=False),
        train=TrainConfig(epochs=epochs, batch_size=size, negatives=5, threads=1, schedule="serial"),
    )
    written: dict[str, Any] = train(config, stream, out=str(folder))
    assert json.loads((folder / "result.json").read_text())["notes"] == written["notes"]
    return written


def test_notes_of_runs(small_stream: EventStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    src = torch.arange(1200) % 60
    pairs = EventStream(src, src + 60, torch.arange(1200))  # each source always meets the same partner
    fault, *_, advice = run(pairs, tmp_path / "pairs", 800, 1)["notes"]
    assert fault.startswith("On test, the model does not beat the best baseline: AP 0.")
    assert advice.startswith("Training had 2 iterations per epoch, 2 in all, which is few: try --pair-features, ")
    fault, advice = run(small_stream, tmp_path / "run", 20, 3)["notes"]
    assert fault.count("against") == fault.count("(pair features alone)"), "it beats all other baselines"
    assert "try --pair-features" in advice
