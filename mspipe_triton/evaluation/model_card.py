"""Model card of a run: README.md of its folder, written from its result, in the form that model hubs read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mspipe_triton.evaluation.baselines import NAMES

_METRICS = {"ap": "AP", "auc": "AUC", "mrr": "MRR"}
_PAPERS = {
    "tgn": "TGN (Rossi et al. 2020, arXiv 2006.10637)",
    "jodie": "JODIE (Kumar et al. 2019, arXiv 1908.01207)",
    "apan": "APAN (Wang et al. 2021, arXiv 2011.11545)",
    "tgat": "TGAT (Xu et al. 2020, arXiv 2002.07962)",
}
_USE = """```python
from mspipe_triton import load

model = load("path/to/this/folder")
```

`model.rank(src, t)` returns the likeliest destinations of a source, `model.score(src, dst, t)` scores pairs,
`model.embed(nodes)` returns embeddings, and `model.observe(src, dst, t)` takes in new events. The folder of a run needs
the file of its events, which `data=FILE` names; a folder that `model.save` wrote does not."""


def model_card(result: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Write the card of a finished run.

    Args:
        result: the content of `result.json`. record: that of `data.json`.
    """
    name, features = result["model"], "with" if result["pair_features"] else "without"
    about = (
        "A temporal graph neural network that scores which pairs of nodes interact next: "
        f"{_PAPERS.get(name, _plain(name))}, trained by mspipe-triton "
        f"{result['versions']['mspipe_triton']}, {features} features of pairs."
    )
    sections = {
        "Use": _USE,
        "Data": _data(result, record),
        "Scores": "\n\n".join([_protocol(result), _scores(result), *map(_item, result["notes"])]),
        "Training": _training(result),
    }
    front = [
        "---",
        "library_name: mspipe-triton",
        "tags:",
        "- temporal-graph",
        "- link-prediction",
        f"- {_tag(name)}",
        "---",
    ]
    title = f"# {_plain(name)} on {_plain(result['dataset'])}"
    body = [title, about, *(f"## {section}\n\n{text}" for section, text in sections.items())]
    return "\n".join(front) + "\n\n" + "\n\n".join(body) + "\n"


def _data(result: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    split, kinds = result["split_events"], record["kinds"]
    widths = {"features per event": record["dim_edge"], "features per node": record["dim_node"]}
    features = "".join(f", {width} {name}" for name, width in widths.items() if width)
    history = f"{result['history']:,} of the run that was continued, then " if result["history"] else ""
    return (
        f"{result['events']:,} events among {result['nodes']:,} nodes"
        + (f" of two kinds ({' and '.join(map(_plain, kinds))})" if kinds else "")
        + f"{features}, in order of time: {history}{split['train']:,} for training, then {split['val']:,} for "
        f"validation, then {split['test']:,} for test."
    )


def _protocol(result: Mapping[str, Any]) -> str:
    """Say how the scores were computed."""
    test = result["test"]
    candidates = f"{test['candidates']:,} " + (f"of {test['origin']}" if "origin" in test else "random ones")
    earlier = "those before its batch" if result["protocol"] == "tgb" else "strictly earlier ones"
    return (
        f"Protocol {result['protocol']}. Events are scored in order of time, each from {earlier}; memory "
        "moves on after each batch. AP and AUC compare each event with one random negative; the MRR ranks its "
        f"destination among {candidates}. The baselines read the same earlier events: EdgeBank remembers every pair, "
        "popularity counts recent events of a destination, and the last is a linear function of the pair's features."
    )


def _scores(result: Mapping[str, Any]) -> str:
    test = result["test"]
    rows = {"validation": result["val"], "test": test}
    if test["inductive"]["events"]:
        rows[f"test, with a node unseen in training ({test['inductive']['events']:,})"] = test["inductive"]
    rows |= {f"{label}, test": test[name] for name, label in NAMES.items()}
    return "\n".join([_row("", list(_METRICS.values())), _row("---", ["---:"] * len(_METRICS)), *(
        _row(name, ["" if row.get(metric) is None else f"{row[metric]:.4f}" for metric in _METRICS])
        for name, row in rows.items()
    )])  # fmt: skip


def _training(result: Mapping[str, Any]) -> str:
    plural = "" if result["train_negatives"] == 1 else "s"
    epochs = f"{result['epochs']} {'epoch' if result['epochs'] == 1 else 'epochs'}"
    adam = f"AdamW (weight decay {result['weight_decay']:g})" if result["weight_decay"] else "Adam"
    stop = f", stopped early (patience {result['patience']})" if result["stopped_early"] else ""
    return (
        f"{epochs} of {adam} in batches of {result['batch_size']}{stop}; epoch {result['best_epoch']} has the "
        f"best validation AP. Loss {result['loss']} with {result['train_negatives']} {result['negative_kind']} "
        f"negative{plural} per event, {_rate(result)}, seed {result['seed']}. `model.json` has all settings."
    )


def _rate(result: Mapping[str, Any]) -> str:
    """Describe the learning rate, and the norm that gradients are clipped to, if they are."""
    warmup = f" after a warm-up of {result['warmup']} iterations" if result["warmup"] else ""
    schedule = f" ({result['lr_schedule']})" if result["lr_schedule"] != "constant" else ""
    clipping = f", gradients clipped to norm {result['clip_norm']:g}" if result["clip_norm"] else ""
    return f"learning rate {result['lr']:g}{schedule}{warmup}{clipping}"


def _plain(name: str) -> str:
    """Return a name as Markdown text, in which it has no other meaning."""
    return re.sub(r"([\\`*_\[\]<|])", r"\\\1", name)


def _tag(name: str) -> str:
    """Return a name as YAML text, quoted unless it is a plain word."""
    plain = re.fullmatch(r"[a-z][a-z0-9_-]*", name) and name not in ("yes", "no", "on", "off", "true", "false", "null")
    return name if plain else json.dumps(name)


def _item(text: str) -> str:
    return f"* {text}"


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"
