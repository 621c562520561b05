"""Retraining that gains: new parameters win where tastes have changed, and serve as well as the verdict says."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mspipe_triton import continuation, train
from mspipe_triton.serving.service.retraining import retrain
from tests.serving.served import shop, shop_rows, trained, write_rows
from tests.serving.service.drifting import (
    OLD,
    SETTINGS,
    SOFTMAX,
    Feed,
    changed,
    drifted,
    fed,
    first_events,
    saved,
    served,
)

TGAT = {"layers": 1, "lr": 3e-3}
SLOW = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("model", "settings"),
    [("tgn", {}), SLOW("apan", {"dropout": 0.1}), SLOW("tgn", SOFTMAX), SLOW("jodie", {}), SLOW("tgat", TGAT)],
    ids=["tgn", "apan", "softmax", "jodie", "tgat"],
)
def test_new_parameters_win_and_serve_as_well_as_the_verdict_says(
    model: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    stream = drifted(new_users=6)
    early, feed = first_events(stream), fed(stream)
    run = trained(tmp_path, early, model, "float64", **SETTINGS | settings)
    base, now = saved(tmp_path, run, early, feed, len(stream))
    verdict = retrain(base, now, tmp_path / "out")
    assert verdict.better
    assert (verdict.first, verdict.train_events, verdict.validation_events) == (OLD, 800, 200)
    assert verdict.old is not None
    assert verdict.new is not None
    decisive = "mrr" if "loss" in settings else "ap"
    assert verdict.new[decisive] > verdict.old[decisive] + 0.05
    assert list(verdict.new) == ["ap", "auc", "mrr"][: 2 + (decisive == "mrr")]
    new = tmp_path / "out" / "parameters.safetensors"
    for metrics, parameters in ((verdict.old, None), (verdict.new, new)):
        expected = served(tmp_path / "there", base, now, feed, verdict, parameters)
        assert {name: metrics[name] for name in metrics if name != "auc"} == pytest.approx(
            {name: expected[name] for name in metrics if name != "auc"}, abs=1e-6
        )


def purchases(rows: list[dict[str, Any]]) -> Feed:
    """Arguments of `observe` for rows of a shop's table."""

    def feed(start: int, stop: int) -> dict[str, Any]:
        part = rows[start:stop]
        features = [{name: row[name] for name in ("amount", "channel")} for row in part]
        ends = {name: [row[key] for row in part] for name, key in (("src", "user"), ("dst", "item"), ("t", "when"))}
        return ends | {"features": features}

    return feed


def test_a_shop_with_two_kinds_and_new_ids_is_retrained(tmp_path: Path) -> None:
    rows = shop_rows(700, users=27)
    feed = purchases(rows)
    base, now = saved(tmp_path, shop(tmp_path, dtype="float64", lr=1e-2), None, feed, len(rows))
    verdict = retrain(base, now, tmp_path / "out", threads=2)
    assert (verdict.first, verdict.train_events, verdict.validation_events) == (400, 240, 60)
    assert verdict.old is not None
    assert verdict.new is not None
    assert verdict.better == (verdict.new["ap"] > verdict.old["ap"])
    expected = served(tmp_path / "there", base, now, feed, verdict, None)
    assert verdict.old["ap"] == pytest.approx(expected["ap"], abs=1e-6)


def test_training_is_that_of_a_continued_run(tmp_path: Path) -> None:
    rows, lr = shop_rows(700), 2e-2
    run = shop(tmp_path, dtype="float64", lr=1e-6)  # which has hardly learnt, so that there is much to gain
    base, now = saved(tmp_path, run, None, purchases(rows), len(rows))
    verdict = retrain(base, changed(now, lr=lr), tmp_path / "out", epochs=2)
    assert verdict.better
    assert verdict.epoch is not None
    later = write_rows(tmp_path / "later.csv", rows[400:])
    config = continuation(run, later, epochs=verdict.epoch, lr=lr, seed=400, split_at="0.8,0.9")
    train(config, out=str(tmp_path / "continued"))
    theirs = torch.load(tmp_path / "continued" / "last.pt", weights_only=True)["model"]
    ours = load_file(tmp_path / "out" / "parameters.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-9, atol=1e-9)
