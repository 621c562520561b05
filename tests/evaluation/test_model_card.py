"""Model cards: the front matter, the table of scores and the figures of a run's result."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mspipe_triton.evaluation.baselines import NAMES
from mspipe_triton.evaluation.model_card import model_card
from tests.serving.served import shop


def test_the_card_has_the_figures_of_the_result(tmp_path: Path) -> None:
    run = shop(tmp_path)
    card, result = (run / "README.md").read_text(encoding="utf-8"), json.loads((run / "result.json").read_text())
    front, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert front.splitlines() == [
        "library_name: mspipe-triton", "tags:", "- temporal-graph", "- link-prediction", "- tgn",
    ]  # fmt: skip
    assert body.startswith("\n# tgn on shop\n\n")
    assert re.findall(r"^## (.*)$", body, re.MULTILINE) == ["Use", "Data", "Scores", "Training"]
    lines = [line for line in body.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[:2] == [["", "AP", "AUC", "MRR"], ["---", "---:", "---:", "---:"]]
    assert {len(row) for row in cells} == {4}
    rows = {row[0]: row[1:] for row in cells}
    for name, part in (("validation", result["val"]), ("test", result["test"])):
        assert rows[name] == [f"{part[metric]:.4f}" for metric in ("ap", "auc", "mrr")]
    assert "400 events among 24 nodes of two kinds (user and item), 5 features per event" in body
    assert "280 for training, then 60 for validation, then 60 for test." in body
    assert body.count("```") == 2
    assert all(f"* {note}" in body for note in result["notes"])
    assert card.endswith("\n")
    assert "\n\n\n" not in card


RECORD: dict[str, Any] = {"kinds": [], "dim_edge": 0, "dim_node": 0}


def result(**changes: Any) -> dict[str, Any]:
    """The part of a result that a card reads."""
    scores = {"ap": 0.5, "auc": 0.25, "mrr": 0.125}
    test = scores | {"candidates": 99, "inductive": {"events": 0}}
    test |= dict.fromkeys(NAMES, scores)
    everything = {
        "model": "tgn", "pair_features": True, "versions": {"mspipe_triton": "1"}, "dataset": "wiki", "notes": [],
        "split_events": {"train": 7, "val": 2, "test": 1}, "events": 10, "nodes": 4, "history": 0, "val": scores,
        "test": test, "protocol": "own", "train_negatives": 1, "epochs": 1, "batch_size": 2, "best_epoch": 1,
        "loss": "bce", "negative_kind": "random", "seed": 0, "lr": 0.001, "lr_schedule": "constant", "warmup": 0,
        "weight_decay": 0.0, "clip_norm": 0.0, "patience": 0, "stopped_early": False,
    }  # fmt: skip
    return everything | changes


@pytest.mark.parametrize("name", ["yes", "3", "a: b", "#mine", "- x", 'say "hi"', "null"])
def test_a_name_that_yaml_would_read_as_something_else_is_quoted(name: str) -> None:
    card = model_card(result(model=name), RECORD)
    tag = card.splitlines()[5]
    assert tag == f"- {json.dumps(name)}"
    assert card.splitlines()[6] == "---"


def test_columns_and_names_stay_in_their_places() -> None:
    card = model_card(result(dataset="a|b*c_d[e](f)<g>`h`#"), RECORD | {"kinds": ["a*b", "c_d"]})
    assert r"# tgn on a\|b\*c\_d\[e\](f)\<g>\`h\`#" in card.splitlines()
    assert r"of two kinds (a\*b and c\_d)" in card


def test_the_protocol_says_what_scores_read() -> None:
    usual, tgb = (model_card(result(protocol=each), RECORD) for each in ("own", "tgb"))
    assert "each from strictly earlier ones" in usual
    assert "each from those before its batch" in tgb
    assert "1 epoch of Adam" in usual
    assert "3 epochs of Adam in batches of 2;" in model_card(result(epochs=3), RECORD)


def test_settings_of_learning_are_named_if_they_are_set() -> None:
    plain = model_card(result(), RECORD)
    assert "per event, learning rate 0.001, seed 0." in plain
    changes = {"lr_schedule": "cosine", "warmup": 7, "weight_decay": 0.01, "clip_norm": 0.5}
    card = model_card(result(patience=2, stopped_early=True, **changes), RECORD)
    assert "1 epoch of AdamW (weight decay 0.01) in batches of 2, stopped early (patience 2); epoch 1" in card
    rate = "learning rate 0.001 (cosine) after a warm-up of 7 iterations, gradients clipped to norm 0.5, seed 0."
    assert rate in card
