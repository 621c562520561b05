"""Plans as files: what is read is what was planned, and whatever else a file holds is refused in one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings

from mspipe_triton.errors import InputError
from mspipe_triton.pipeline.graphpipe.bound import Bound
from mspipe_triton.pipeline.graphpipe.choice import Choice
from mspipe_triton.pipeline.graphpipe.costs import ACCELERATORS
from mspipe_triton.pipeline.graphpipe.models import MODELS, candle_uno, dlrm, mmt, two_branch
from mspipe_triton.pipeline.graphpipe.operators import Duration, Operator, OperatorGraph
from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from mspipe_triton.pipeline.graphpipe.plan_file import read_plan
from mspipe_triton.pipeline.graphpipe.planning import Planned, plan_model
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.timeline import makespan
from tests.pipeline.graphpipe.json_faults import faulty
from tests.pipeline.graphpipe.plans import random_plans

V100 = ACCELERATORS["v100"]


def diamond(cluster: Cluster = Cluster(5, 1000, 2.0, 2, 1.0)) -> Problem:  # noqa: B008  # frozen
    """a before b and c, which are before d; a costless loss joins c and d."""
    operators = [Operator(name, Duration(0.25, 2), Duration(0.5, 4), 5, 6, 7) for name in "abcd"]
    uses = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"), ("d", "loss"), ("c", "loss")]
    return Problem(OperatorGraph.of([*operators, Operator("loss")], uses, "diamond"), cluster, 8)


def written(planned: Planned, path: Path) -> Path:
    path.write_text(json.dumps(planned.to_json(), allow_nan=False), encoding="utf-8")
    return path


def chain(planned: Planned) -> PipelinePlan:
    assert planned.sequential is not None
    return planned.sequential.plan


SCHEDULES: dict[str, dict[str, Any]] = {
    "1f1b": {},
    "kfkb": {"schedule": "kfkb"},
    "mixed": {"schedule": "kfkb", "mixed": True},
}


def check_model(graph: OperatorGraph, arguments: dict[str, Any], path: Path) -> None:
    planned = plan_model(Problem(graph, V100.cluster(8), 64), micro_batch=4, **arguments)
    written(planned, path)
    assert read_plan(path) == planned.graph.plan
    assert read_plan(path, sequential=True) == chain(planned)


@pytest.mark.parametrize("arguments", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("model", [pytest.param(each, marks=pytest.mark.slow) for each in MODELS])
def test_built_in_models_are_read_as_planned(model: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    check_model(MODELS[model](V100), arguments, tmp_path / "plan.json")


SMALL = {
    "two-branch": two_branch(),
    "mmt": mmt(V100, branches=2, layers=3),
    "dlrm": dlrm(V100, layers=2, embeddings=2, top=2),
    "candle-uno": candle_uno(V100, layers=1),
}


@pytest.mark.parametrize("arguments", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("graph", SMALL.values(), ids=SMALL)
def test_small_models_are_read_as_planned(graph: OperatorGraph, arguments: dict[str, Any], tmp_path: Path) -> None:
    check_model(graph, arguments, tmp_path / "plan.json")


PROBLEMS = {
    "joins, nodes": diamond(),
    "several devices per stage": diamond(Cluster(9, 1000, 3.5)),
    "at most two devices per stage": replace(diamond(Cluster(9, 1000)), replicas=2, copies=3),
    "infinite links and memory": diamond(Cluster(4, inf, inf, 2, inf)),
    "one stage": diamond(Cluster(1, 1000)),
}


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize("mixed", [False, True])
def test_problems_are_read_as_planned(problem: Problem, mixed: bool, tmp_path: Path) -> None:
    planned = plan_model(problem, "kfkb", mixed=mixed)
    path = written(planned, tmp_path / "plan.json")
    assert read_plan(path) == planned.graph.plan
    assert read_plan(path, sequential=True) == chain(planned)
    assert makespan(read_plan(path)) == planned.graph.seconds


def test_the_plans_of_these_problems_differ_in_kind() -> None:
    plans = [plan_model(each, "kfkb").graph.plan for each in PROBLEMS.values()]
    plans.append(plan_model(Problem(two_branch(), Cluster(8, 16e9), 64)).graph.plan)
    stages = [stage for plan in plans for stage in plan.stages]
    assert any(len(stage.devices) > 1 for stage in stages)
    assert any(len(stage.after) > 1 for stage in stages)
    assert any(stage.joins for stage in stages)


@settings(max_examples=60, deadline=None)
@given(random_plans())
def test_any_plan_is_read_as_written(plan: PipelinePlan) -> None:
    """With groups of passes, mixed micro-batches, joins and chains."""
    planned = Planned(plan.problem, Choice(plan, makespan(plan)), None, Bound(0, 0, 0))
    with TemporaryDirectory() as folder:
        assert read_plan(written(planned, Path(folder) / "plan.json")) == plan


@pytest.mark.parametrize("sequential", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_faults_anywhere_are_refused_or_harmless(sequential: bool, tmp_path: Path) -> None:
    operators = [Operator(name, Duration(0.25, 2), Duration(0.5, 4), 5, 6, 7) for name in "ab"]
    graph = OperatorGraph.of([*operators, Operator("loss")], [("a", "loss"), ("b", "loss")])
    record = plan_model(Problem(graph, Cluster(2, 100, inf, 2), 8), micro_batch=4).to_json()
    path, messages, harmless = tmp_path / "plan.json", list[str](), 0
    for each in faulty(record):
        path.write_text(json.dumps(each), encoding="utf-8")
        try:
            plan = read_plan(path, sequential)
        except InputError as error:
            messages.append(str(error))
        else:
            harmless += 1
            assert makespan(plan) >= 0
            assert max(plan.memory(stage) for stage in plan.stages) <= plan.problem.cluster.memory
    assert len(messages) > 400
    assert all(str(path) in each and "\\n" not in each for each in messages)
    assert harmless > 100  # numbers that only the screen shows, and the other plan


def with_change(change: Callable[[dict[str, Any]], object]) -> str:
    record = plan_model(diamond(), micro_batch=2).to_json()
    change(record)
    return json.dumps(record)


EDITED = "the file was edited, or another version wrote it; plan again with `mspipe-triton graphpipe --json`"
WRONG = {
    "empty": ("", "is empty: what wrote a plan failed; plan again"),
    "no JSON": ("plan: 1", "is not JSON (line 1: Expecting value); plan again"),
    "cut off": ('{"model": "a",', "is not JSON (line 1"),
    "too deep": ("[" * 100_000, "is JSON nested too deeply"),
    "too many digits": ("1" * 5000, "has a number of too many digits"),
    "a list": ("[1, 2]", "the file must hold an object, not a list of 2"),
    "a result": ('{"test": {"ap": 0.9}}', 'has no "problem", so it is no plan, or an older version wrote it'),
    "an older version": (with_change(lambda plan: plan.pop("problem")), 'has no "problem"'),
    "no chain": (
        with_change(lambda plan: plan.update(sequential=None)),
        "has no chain of stages, since none fits into the memory",
    ),
    "a batch in words": (
        with_change(lambda plan: plan.update(batch="8")),
        'batch must be a whole number of at least 1, not "8"',
    ),
    "a batch that is not divided": (
        with_change(lambda plan: plan.update(batch=9)),
        "is no plan for its problem: micro-batch 2 does not divide the batch of 9",
    ),
    "another chain": (with_change(lambda plan: plan["sequential"]["in_flight"].update({"stage 0": 9})), EDITED),
    "other devices": (
        with_change(lambda plan: plan["sequential"]["stages"][0].update(devices=[5])),
        "sequential.stages[0].devices differs",
    ),
    "too little memory": (
        with_change(lambda plan: plan["problem"]["cluster"].update(memory=30)),
        "sequential is no plan for its problem: stage 0 needs",
    ),
    "an unknown operator": (
        with_change(lambda plan: plan["sequential"]["stages"][0].update(operators=["z"])),
        "sequential.stages[0].operators[0] is 'z', which is no operator of the problem",
    ),
    "an edge backwards": (
        with_change(lambda plan: plan["problem"]["edges"].append([2, 1])),
        "problem is wrong: edge 2 → 1 does not go forward",
    ),
    "too many devices": (
        with_change(lambda plan: plan["problem"]["cluster"].update(devices=5000)),
        "problem is wrong: devices must be at most 4,096",
    ),
    "negative costs": (
        with_change(lambda plan: plan["problem"]["operators"][1].update(forward=[0, -1])),
        "problem.operators[1].forward[1] must be a number of at least 0, not -1",
    ),
}


@pytest.mark.parametrize(("content", "words"), WRONG.values(), ids=WRONG)
def test_wrong_files_say_what_is_wrong(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_plan(path, sequential=True)
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_without_a_readable_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.json: no such file; name the file of a plan, or plan again with"):
        read_plan(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="is a folder; name the file of a plan"):
        read_plan(tmp_path)
    with pytest.raises(InputError, match="is empty"):
        read_plan(Path("/dev/null"))
    (tmp_path / "binary").write_bytes(b'"\xff\xfe\x00')
    with pytest.raises(InputError, match="is not JSON but binary data; plan again"):
        read_plan(tmp_path / "binary")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be read \(Not a directory\)"):
        read_plan(tmp_path / "file" / "plan.json")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = written(plan_model(diamond()), tmp_path / "plan.json")
    path.chmod(0)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        read_plan(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_shells_that_write_other_encodings(encoding: str, tmp_path: Path) -> None:
    planned = plan_model(diamond())
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(planned.to_json()), encoding=encoding)
    assert read_plan(path) == planned.graph.plan
