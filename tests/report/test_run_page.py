"""The page about a run: what it shows, that it needs nothing else, and that names cannot become markup."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mspipe_triton.config import RunConfig, TrainConfig
from mspipe_triton.pipeline.plan import make_plan
from mspipe_triton.pipeline.trace import Trace
from mspipe_triton.report.page import page_text
from mspipe_triton.report.runs import Run
from tests.report.written import STAGES, Page, metrics, plan, result, spans, write_run

PAGE_CSS = Path(__file__).resolve().parents[2] / "mspipe_triton" / "report" / "page.css"


def page(folder: Path) -> Page:
    return Page(page_text([Run.read(folder)]))


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", end=result(3))


def test_it_shows_scores_baselines_settings_and_notes(finished: Path) -> None:
    text = page(finished).text
    for part in (
        "tgn on shop", "Test AP 0.9712", "Test AUC 0.9634", "Test MRR of 50 0.8751", "Best epoch 2", "Train longer.",
        "pair features alone (baseline) 0.9600 0.9500 0.8600", "EdgeBank, test 0.9200", "AP by epoch", "Loss by epoch",
        "test, unseen nodes 0.9500 0.9400 0.7700", "Staleness measured", "planned to be one iteration every 12.5 ms",
        "6 typical iterations of epoch 3: one ends every 10.0 ms", "compute 90%", "schedule mspipe default auto",
        "most memory of the process 812 MiB", "torch 2.13.0", "f00d", "1 0 first plan 12.50 1",
        "The run tried no other settings.", "mspipe-triton train --schedule mspipe --no-autotune",
    ):  # fmt: skip
        assert part in text, part
    assert "Learning rate" not in text
    assert "not finished" not in text


def test_it_is_one_file_without_anything_from_elsewhere(finished: Path) -> None:
    text = page_text([Run.read(finished)])
    read = Page(text)
    assert "http" not in re.sub("http-equiv", "", text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "image"} & set(read.tags)
    assert not {"src", "srcset", "action", "background"} & {name for name, _ in read.attributes}
    assert all(value.startswith("#") for name, value in read.attributes if name.endswith("href"))
    assert "@import" not in text
    assert len(text) < 100_000


def test_ids_are_unique_and_references_lead_to_them(finished: Path) -> None:
    text = page_text([Run.read(finished)])
    read = Page(text)
    ids = [value for name, value in read.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    references = set(re.findall(r"url\(#([^)]+)\)", text)) | {
        value[1:] for name, value in read.attributes if name == "href"
    }
    assert references
    assert references <= set(ids)


def test_charts_have_labels_and_the_colours_of_the_page(finished: Path) -> None:
    text = page_text([Run.read(finished)])
    charts = re.findall(r"<svg [^>]*class=\"chart\".*?</svg>", text, re.DOTALL)
    assert len(charts) == 6
    variables = set(re.findall(r"--([\w-]+):", PAGE_CSS.read_text(encoding="utf-8")))
    for chart in charts:
        assert re.search(r'aria-label="[^"]{20,}"', chart)
        assert not re.search(r"(fill|stroke): #(?!ffffff|000000)", chart), "a colour that is no variable"
        assert set(re.findall(r"var\(--([\w-]+)\)", chart)) <= variables
    assert "<title>train of iteration" in text
    assert "DejaVu" not in text


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>&\"'$x_1$"
    config = RunConfig(train=TrainConfig(epochs=3)).with_flags({"path": f"/data/{hostile}.csv"})
    lines = [
        {"event": "trial", "settings": {hostile: hostile}},
        {"event": hostile, "value": hostile},
        metrics(1, stage_seconds={hostile: 0.01}),
    ]
    end = result(1, hostile, notes=[hostile], stage_seconds={hostile: 0.01}, schedule=hostile)
    folder = write_run(tmp_path / "run", config, lines, end, hostile)
    text = page_text([Run.read(folder)])
    assert "<script" not in text
    assert "script" not in Page(text).tags
    assert Page(text).text.count(hostile) >= 8


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        ([metrics(1), metrics(2)], "Training has not finished: 2 of 3 epochs so far"),
        ([], "Training has not finished: 0 of 3 epochs so far; the run's first command starts it again"),
    ],
)
def test_an_unfinished_run_is_shown_as_far_as_it_is(lines: list[dict[str, Any]], part: str, tmp_path: Path) -> None:
    text = page(write_run(tmp_path / "run", lines=lines, timeline=False)).text
    assert part in text
    assert ("Validation AP 0.9200" in text) == bool(lines)
    assert "Scores of the best epoch" not in text


def test_a_resumed_run_says_that_its_scores_are_older(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", end=result(2))
    (folder / "last.pt").touch()
    way = f"`mspipe-triton train --out {folder} --resume` continues it"
    assert f"The scores are those after 2 epochs, and training has gone on since; {way}" in page(folder).text


def test_damaged_parts_are_left_out_and_named(finished: Path) -> None:
    with open(finished / "metrics.jsonl", "ab") as file:
        file.write(b'[1]\n{"epoch": 4}\n{"epoch": 5, "lo\xff')
    for name in ("data.json", "timeline.json", "result.json"):
        (finished / name).write_text("{", encoding="utf-8")
    text = page(finished).text
    for number in (5, 6, 7):
        assert f"Line {number} of metrics.jsonl is damaged and left out." in text
    for name in ("data.json", "timeline.json", "result.json"):
        assert f"{name} cannot be read" in text
    assert "Validation AP 0.9200" in text


@pytest.mark.parametrize("content", [{"model": "tgn"}, {"epoch": 3, "spans": [{"stage": "train"}]}])
def test_files_with_other_content_are_named(content: dict[str, Any], finished: Path) -> None:
    for name in ("timeline.json", "result.json"):
        (finished / name).write_text(json.dumps(content), encoding="utf-8")
    text = page(finished).text
    assert "The timeline of the run is damaged and left out." in text
    assert "result.json is not the result of a run" in text


def test_an_older_run_has_a_timeline_if_it_was_traced(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", end=result(3), timeline=False)
    assert "no timeline.json and no trace.json" in page(folder).text
    trace = Trace()
    trace.plan(make_plan("mspipe", STAGES))
    for epoch in (1, 2):
        for iteration in spans(8):
            trace.add(epoch, iteration)
    trace.write(folder / "trace.json")
    assert "6 typical iterations of epoch 2: one ends every 10.0 ms" in page(folder).text


def test_a_resident_run_has_no_timeline(tmp_path: Path) -> None:
    lines = [metrics(1, stage_seconds={"iteration": 0.01}, staleness_measured={"0": 100})]
    folder = write_run(tmp_path / "run", lines=lines, timeline=False)
    text = page(folder).text
    assert "A resident run computes whole iterations on the device" in text
    assert "20 nodes · resident" in text


def test_learning_rates_trials_and_threads_are_shown(tmp_path: Path) -> None:
    lines = [
        {"event": "trial", "epoch": 1, "settings": {"threads": 2}, "ms": 37.123, "better": False},
        {"event": "threads", "epoch": 1, "iteration": 12, "old": 2, "new": 1},
        *(metrics(epoch, lr=1e-3 / epoch, grad_norm=0.25) for epoch in (1, 2)),
    ]
    text = page(write_run(tmp_path / "run", lines=lines, end=result(2, stopped_early=True))).text
    assert "of 2 epochs, stopped early, by validation AP" in text
    assert "val AUC learning rate gradient norm events/s" in text
    assert "1 0.5000 0.9100 0.9000 0.001 0.25 5,000 3.00 0.50 0.40" in text
    assert "Learning rate by epoch" in text
    assert "learning rate 0.0005" in text
    assert "Settings tried while training epoch settings threads ms better 1 2 37.12 no" in text
    assert "Changes of threads epoch iteration old new 1 12 2 1" in text
    assert "tried no other settings" not in text


def test_a_constant_rate_and_an_mrr_without_baselines_have_no_chart(tmp_path: Path) -> None:
    end = result(2)
    end["test"] = {name: value for name, value in end["test"].items() if not isinstance(value, dict)}
    read = page(write_run(tmp_path / "run", lines=[metrics(epoch, lr=1e-3) for epoch in (1, 2)], end=end))
    assert "Learning rate by epoch" not in read.text
    assert "The MRR is computed once" not in read.text
    assert "Test MRR of 50 0.8751" in read.text


def test_execution_settings_say_what_the_run_used_instead(tmp_path: Path) -> None:
    settings = {"threads": 2, "fused": True, "features": "host", "captured": True, "branch": True}
    lines = [{"event": "threads", "epoch": 1, "iteration": 2, "threads": 1, "others": 1.0}, metrics(1)]
    end = result(1, fused=False, captured=False, settings=settings)
    text = page(write_run(tmp_path / "cpu", lines=lines, end=end)).text
    assert "threads 2; 1 while other processes used cores" in text
    assert "fused yes; no loops were compiled" in text
    assert "compiled loops no" not in text
    assert not any(name in text for name in ("captured", "branch", "features host"))
    text = page(write_run(tmp_path / "gpu", lines=lines, end=end | {"device": "cuda"})).text
    assert "captured yes; no graph was captured" in text
    assert "branch yes" in text


def test_roundabout_paths_are_shortened(tmp_path: Path) -> None:
    config = RunConfig().with_flags({"path": str(tmp_path / "main" / ".." / "events.csv")})
    text = page(write_run(tmp_path / "run", config)).text
    assert ".." not in text
    assert f"mspipe-triton train {tmp_path.resolve() / 'events.csv'}" in text


def test_a_long_run_has_a_small_page(tmp_path: Path) -> None:
    lines = [line for epoch in range(1, 1501) for line in (plan(epoch, 3, "train"), metrics(epoch))]
    text = page_text([Run.read(write_run(tmp_path / "run", lines=lines, end=result(1500)))])
    assert len(text) < 400_000
    assert "The last 200 of 1,500; metrics.jsonl has all." in text


def test_losses_that_are_not_finite_are_no_points(tmp_path: Path) -> None:
    lines = [metrics(1, loss=float("nan")), metrics(2)]
    assert "training loss 0.2500" in page(write_run(tmp_path / "run", lines=lines)).text


def colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_that_of_level_aa(scheme: str) -> None:
    light, dark = PAGE_CSS.read_text(encoding="utf-8").split("@media screen", 1)
    values = colours(light) | (colours(dark) if scheme == "dark" else {})
    series = [name for name in values if re.fullmatch(r"s\d", name)]
    assert len(series) == 8
    pairs = [(name, ground) for name in ("text", "soft") for ground in ("page", "card")]
    pairs += [("warn", "tint"), *((name, "card") for name in series), *(("on", name) for name in series)]
    for front, ground in pairs:
        lighter, darker = sorted((luminance(values[front]), luminance(values[ground])), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (front, ground)
