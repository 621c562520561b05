"""Example with several types of events: its stream, memory, order of micro-batches, training, capture and plan."""

from __future__ import annotations

from collections.abc import Iterable
from math import log

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torchmetrics.functional.classification import binary_average_precision

from mspipe_triton.examples import typed
from mspipe_triton.examples.typed import TypedModel
from mspipe_triton.examples.typed_batches import TypedBatch, TypedBatches
from mspipe_triton.examples.typed_stream import KINDS, MESSAGE, NAMES, PURCHASE, VIEW, TypedConfig, typed_stream
from mspipe_triton.pipeline.graphpipe import ACCELERATORS, OperatorGraph, Problem, plan_model
from mspipe_triton.pipeline.graphpipe.capture import capture
from mspipe_triton.pipeline.graphpipe.operators import members
from tests.examples.typed_oracle import memories

TRADERS = 100
SMALL = TypedConfig(events=5_760, traders=TRADERS)


def small_model(kinds: Iterable[int] = KINDS, dtype: torch.dtype = torch.float64) -> TypedModel:
    torch.manual_seed(0)
    return TypedModel(TRADERS, tuple(kinds), dim=16, fanout=5, dtype=dtype)


def cut(batch: TypedBatch, size: int) -> list[TypedBatch]:
    return [TypedBatch(*parts) for parts in zip(*(column.split(size) for column in batch), strict=True)]


def tiny_batch(events: list[tuple[int, int, int, int]], fanout: int = 5) -> TypedBatch:
    """Events (source, destination, time, type) without neighbours; every negative is node 9."""
    src, dst, times, kind = (torch.tensor(column) for column in zip(*events, strict=True))
    slots = (len(events), len(KINDS), 3)
    return TypedBatch(
        torch.stack([src, dst, torch.full_like(src, 9)], 1), times, kind, torch.arange(len(events)),
        torch.full((*slots, fanout), -1), torch.zeros(*slots, fanout), torch.zeros(slots, dtype=torch.int64),
    )  # fmt: skip


def test_the_stream_is_the_same_every_time_and_has_all_types() -> None:
    one, other = typed_stream(SMALL), typed_stream(SMALL)
    assert torch.equal(one.kind, other.kind)
    assert all(torch.equal(getattr(one.events, name), getattr(other.events, name)) for name in ("src", "dst", "t"))
    assert not torch.equal(one.events.dst, typed_stream(TypedConfig(5_760, TRADERS, seed=1)).events.dst)
    shares = torch.bincount(one.kind) / len(one.kind)
    assert shares.tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.02)
    assert not (one.events.src == one.events.dst).any()
    assert int(one.events.t[0]) == 0


def test_each_type_depends_on_the_others_as_the_docstring_says() -> None:
    """Shares of events whose partner follows from the latest events; chance adds a little in a group of five."""
    stream = typed_stream(SMALL)
    seller, viewed, partner = {}, {}, {}
    hits: dict[int, list[bool]] = {kind: [] for kind in KINDS}
    columns = (each.tolist() for each in (stream.events.src, stream.events.dst, stream.kind))
    for src, dst, kind in zip(*columns, strict=True):
        cause = (seller, viewed, partner)[kind]
        if src in cause:
            hits[kind].append(cause[src] == dst)
        if kind == PURCHASE:
            seller[src] = dst
        elif kind == VIEW:
            viewed[src] = dst
        else:
            partner[src], partner[dst] = dst, src
    assert np.mean(hits[VIEW]) == pytest.approx(0.42, abs=0.05)
    assert np.mean(hits[MESSAGE]) == pytest.approx(0.55, abs=0.05)
    assert np.mean(hits[PURCHASE]) == pytest.approx(0.65, abs=0.05)


def test_batches_hold_the_latest_earlier_neighbours_of_each_type_and_start_again() -> None:
    stream = typed_stream(TypedConfig(events=600, traders=40))
    batches = TypedBatches(stream, 100, fanout=3)
    assert len(batches) == 6
    columns = stream.events.src, stream.events.dst, stream.events.t, stream.kind
    history = [*zip(*(each.tolist() for each in columns), strict=True)]
    for first, again in zip(batches, batches, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
        for row, event in enumerate(first.event.tolist()):
            src, dst, now, kind = history[event]
            assert first.roots[row, :2].tolist() == [src, dst]
            assert int(first.roots[row, 2]) != dst
            assert (int(first.times[row]), int(first.kind[row])) == (now, kind)
            for which in KINDS:
                for place, root in enumerate(first.roots[row].tolist()):
                    past = [each for each in history[:event] if each[3] == which and each[2] < now and root in each[:2]]
                    latest = [(sum(each[:2]) - root, now - each[2]) for each in past[::-1][:3]]
                    filled = int(first.counts[row, which, place])
                    slots = zip(first.neighbours[row, which, place], first.deltas[row, which, place], strict=True)
                    assert [(int(node), int(delta)) for node, delta in slots][:filled] == latest


def test_memory_of_four_events_by_hand() -> None:
    """Views 0→1 and 1→2, a message 2→3, a view 2→0; micro-batches of two events."""
    model = small_model()
    view, message = model.branches["view"], model.branches["message"]
    codes = view.memory[TRADERS:].clone()
    first, second = cut(tiny_batch([(0, 1, 0, VIEW), (1, 2, 10, VIEW), (2, 3, 25, MESSAGE), (2, 0, 70, VIEW)]), 2)
    model(*first)
    assert torch.equal(view.memory[:TRADERS], codes), "mail is digested when the node is next read"
    assert view.event_id[:4].tolist() == [0, 1, 1, -1]
    assert view.mail_time[:4].tolist() == [0, 10, 10, 0]
    assert torch.equal(view.partner[:3], codes[[1, 2, 1]]), "of the mails to node 1, that of the second event is left"
    assert message.event_id.eq(-1).all()
    model(*second)
    cell, encode = view.updater, view.time.frequency
    digested = cell(torch.cat([codes[2], codes[1], torch.cos(encode * 10)])[None], codes[2:3])
    assert torch.allclose(view.memory[2], digested[0], rtol=0, atol=1e-12)
    assert torch.allclose(view.partner[0], digested[0], rtol=0, atol=1e-12)
    assert view.event_id[:4].tolist() == [3, 1, 3, -1]
    assert (view.memory_time[2], view.mail_time[2], view.memory_time[0], view.mail_time[0]) == (10, 70, 0, 70)
    assert message.event_id[:4].tolist() == [-1, -1, 2, 2]
    assert torch.equal(message.partner[2:4], codes[[3, 2]])
    assert torch.equal(view.memory[TRADERS:], codes)


def test_memory_over_many_micro_batches_equals_the_oracle() -> None:
    model, stream = small_model(), typed_stream(TypedConfig(320, TRADERS))
    batches = [part for batch in TypedBatches(stream, 64, 5) for part in cut(batch, 8)]
    for batch in batches:
        model(*batch)
    for name, branch in model.branches.items():
        codes = branch.memory[TRADERS:].numpy()
        weights = {key: value.detach().numpy() for key, value in branch.updater.named_parameters()}
        events = [
            [(int(src), int(dst), int(t)) for (src, dst, _), t, kind in zip(*batch[:3], strict=True)
             if kind == NAMES.index(name)]
            for batch in batches
        ]  # fmt: skip
        records = memories(events, codes, weights, branch.time.frequency.numpy())
        assert (branch.event_id >= 0).nonzero().squeeze(1).tolist() == sorted(records)
        for node, record in records.items():
            for column, value in record.items():
                assert getattr(branch, column)[node].numpy() == pytest.approx(value, abs=1e-10), (name, node, column)


def test_backward_passes_can_follow_the_forward_passes_of_later_micro_batches() -> None:
    """Gradients are those of micro-batches with each backward pass right after its forward pass."""
    batch = next(iter(TypedBatches(typed_stream(SMALL), 64, 5)))
    late, prompt = small_model(), small_model()
    losses = [late(*part) for part in cut(batch, 16)]
    for loss in losses:
        (loss / 4).backward()
    for part in cut(batch, 16):
        (prompt(*part) / 4).backward()
    gradients = {name: each.grad for name, each in prompt.named_parameters()}
    assert len(gradients) == len([*late.parameters()])
    for name, each in late.named_parameters():
        assert torch.equal(each.grad, gradients[name]), name
    assert all(torch.equal(*pair) for pair in zip(late.buffers(), prompt.buffers(), strict=True))


def test_the_first_event_starts_the_memory_anew() -> None:
    model = small_model()
    batches = TypedBatches(typed_stream(TypedConfig(256, TRADERS)), 64, 5)
    with torch.no_grad():
        first, second = ([model(*batch).item() for batch in batches] for _ in range(2))
    assert first == second


def trained(model: nn.Module) -> tuple[list[float], list[Tensor]]:
    """Losses and scores of the mini-batches of the small stream, each before it is learnt."""
    optimizer, losses, scores = torch.optim.Adam(model.parameters(), 1e-2), [], []
    for batch in TypedBatches(typed_stream(SMALL), 96, 5):
        scores.append(model.scores(*batch))
        positive, negative = scores[-1].unbind(1)
        loss = (softplus(-positive) + softplus(negative)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, scores


def test_all_types_together_predict_better_than_any_alone() -> None:
    """AP of the last quarter of the stream, and its loss, of models that learn as they go."""
    precision, last = {}, {}
    for kinds in (KINDS, *([kind] for kind in KINDS)):
        losses, scores = trained(small_model(kinds, torch.float32))
        name, quarter = "".join(map(str, kinds)), len(losses) // 4
        late = torch.cat(scores[-quarter:]).detach()
        labels = torch.tensor([1, 0]).repeat(len(late))
        precision[name] = float(binary_average_precision(late.view(-1), labels))
        last[name] = np.mean(losses[-quarter:])
    alone = [str(kind) for kind in KINDS]
    assert last["012"] < 0.7 * 2 * log(2)
    assert last["012"] < min(last[each] for each in alone) - 0.05
    assert precision["012"] > max(precision[each] for each in alone) + 0.02


@pytest.fixture(scope="module")
def graph() -> OperatorGraph:
    module, inputs = typed.build()
    return capture(module, inputs, accelerator=ACCELERATORS["v100"])


def test_branches_are_parallel_and_meet_in_the_decoder(graph: OperatorGraph) -> None:
    branches = {
        name: sum(1 << i for i, each in enumerate(graph.operators) if each.name.startswith(f"branches.{name}."))
        for name in NAMES
    }
    for name, operators in branches.items():
        others = sum(each for other, each in branches.items() if other != name)
        assert operators
        for index in members(operators):
            assert not graph.ancestors[index] & others
    last = len(graph.operators) - 1
    everything = sum(branches.values())
    assert graph.ancestors[last] & everything == everything
    assert graph.operators[last].name == "mean"
    state = sum(each.numel() * each.element_size() for each in typed.build()[0].state_dict().values())
    assert sum(each.parameters for each in graph.operators) == pytest.approx(state, rel=0.01)


def test_four_devices_run_the_branches_side_by_side(graph: OperatorGraph) -> None:
    planned = plan_model(Problem(graph, ACCELERATORS["v100"].cluster(4), batch=typed.BATCH, replicas=1))
    plan = planned.graph.plan
    assert (plan.depth, len(plan.stages)) == (2, 4)
    assert planned.sequential is not None
    assert planned.sequential.seconds > 1.5 * planned.graph.seconds
    assert [len(stage.after) for stage in plan.stages] == [0, 0, 0, 3]
    names = [graph.names(stage.operators) for stage in plan.stages]
    assert [sum("memory_gru" in each for each in stage) for stage in names] == [1, 1, 1, 0]
    assert len(typed.batches()) == 400
