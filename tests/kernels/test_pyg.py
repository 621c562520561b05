"""FusedTGNMemory against PyG's TGNMemory on the same streams: states, times, gradients, checkpoints, and PyG's loop."""

from __future__ import annotations

import math
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch_geometric.nn.models.tgn import IdentityMessage, MeanAggregator

from mspipe_triton.kernels.pyg import FusedTGNMemory
from tests.kernels.pyg_case import DIM, NODES, TIMES, WIDTH, Run, build_memory

EXAMPLE = Path(__file__).parents[2] / "examples" / "pyg_tgn_with_fused_memory.py"


def run_steps(kind: str, steps: list[tuple[str, Any]]) -> dict[str, torch.Tensor]:
    """Run the steps, read all nodes and differentiate; return every output by name."""
    run = Run(build_memory(kind))
    for step in (*steps, ("read", list(range(NODES))), ("backward", None)):
        run.step(*step)
    return run.outputs


def check(steps: list[tuple[str, Any]]) -> dict[str, torch.Tensor]:
    """Check that both memories agree to 1e-10, and return PyG's outputs."""
    expected = run_steps("fixed", steps)
    torch.testing.assert_close(run_steps("fused", steps), expected, rtol=1e-10, atol=1e-10)
    return expected


NODE = st.integers(0, NODES - 1)
UPDATE = st.tuples(st.just("update"), st.lists(st.tuples(NODE, NODE, st.integers(-2, 4)), min_size=1, max_size=6))
READ = st.tuples(st.just("read"), st.lists(NODE, min_size=1, max_size=NODES, unique=True))
SWITCH = st.tuples(st.just("switch"), st.none())
OTHER = st.tuples(st.sampled_from(["reset", "backward"]), st.none())


@settings(max_examples=100, deadline=None)
@given(st.lists(UPDATE | READ | SWITCH | OTHER, max_size=9))
@example([("update", [(0, 1, 4)]), ("switch", None), ("update", [(1, 0, 2)]), ("switch", None)])
def test_any_stream_gives_the_outputs_of_pyg(steps: list[tuple[str, Any]]) -> None:
    """Cover tied and unordered times, self-loops, repeated pairs, both roles, mode switches, and gradients across
    updates."""
    check(steps)


def test_gradients_flow_through_updates_until_detach() -> None:
    batches = [[(0, 1, 1), (1, 0, 1), (2, 2, 2)], [(1, 3, 3), (0, 1, 3)], [(3, 0, 4), (1, 1, 5), (1, 1, 5)]]
    steps: list[tuple[str, Any]] = [("update", batch) for batch in batches]
    with_history = check([*steps, ("read", [0, 1])])
    without_history = check([*steps, ("backward", None), ("read", [0, 1])])
    for name, value in with_history.items():
        if "gradient" in name:
            assert float(value.abs().max()) > 1e-3, name
            same = next(
                gradient for key, gradient in without_history.items() if key.split(" ", 1)[1] == name.split(" ", 1)[1]
            )
            assert not torch.allclose(value, same), name


@pytest.mark.parametrize("kind", ["fused", "fixed"])
def test_six_events_by_hand(kind: str) -> None:
    memory = build_memory(kind, (4, 1, 1, 1))
    with torch.no_grad():  # reset gate unused, update gate 0: h = tanh(W_in x + 0.7)
        for parameter in memory.gru.parameters():
            parameter.zero_()
        memory.gru.weight_ih[2] = torch.tensor([0.5, 0.25, 1.0, 2.0])
        memory.gru.bias_ih[1], memory.gru.bias_ih[2] = -1000.0, 0.7
        memory.time_enc.lin.weight.fill_(0.1)
        memory.time_enc.lin.bias.fill_(0.2)

    def cell(memory: float, partner: float, message: float, elapsed: int) -> float:
        return math.tanh(0.5 * memory + 0.25 * partner + message + 2.0 * math.cos(0.1 * elapsed + 0.2) + 0.7)

    def update(*events: tuple[int, int, int, float]) -> None:
        src, dst, t, message = (torch.tensor(column) for column in zip(*events, strict=True))
        memory.update_state(src, dst, t, message.double().unsqueeze(1))

    def check_memory(states: list[float], times: list[int]) -> None:
        h, last_update = memory(torch.arange(4))
        torch.testing.assert_close(h.detach(), torch.tensor(states, dtype=torch.float64).unsqueeze(1))
        assert last_update.tolist() == times

    empty = math.tanh(0.7)  # a node without mail
    update((0, 1, 2, 0.1), (2, 0, 3, 0.2))
    a0, a1, a2 = cell(empty, empty, 0.2, 3), cell(empty, empty, 0.1, 2), cell(empty, empty, 0.2, 3)
    check_memory([a0, a1, a2, cell(0, 0, -2 * math.cos(0.2), 0)], [3, 2, 3, 0])  # the last one is tanh(0.7) again

    update((0, 3, 3, 0.3), (1, 1, 5, 0.4))  # 0 and 1 have used their mail; 2 has not, and now sees 0's new memory
    b0 = cell(a0, empty, 0.2, 0)  # two mails at time 3: the one to 0 as destination, from 2, wins
    b1, b2, b3 = cell(a1, a1, 0.4, 3), cell(empty, a0, 0.2, 3), cell(empty, a0, 0.3, 3)
    check_memory([b0, b1, b2, b3], [3, 5, 3, 3])

    update((3, 0, 6, 0.5))
    c0, c3 = cell(b0, b3, 0.5, 3), cell(b3, b0, 0.5, 3)
    c2 = cell(empty, b0, 0.2, 3)
    check_memory([c0, b1, c2, c3], [6, 5, 3, 6])

    memory.eval()  # all nodes update at once, to the memory read above
    check_memory([c0, b1, c2, c3], [6, 5, 3, 6])
    update((0, 3, 8, 0.6))
    check_memory([cell(c0, c3, 0.6, 2), b1, c2, cell(c3, c0, 0.6, 2)], [8, 5, 3, 8])


def loop(kind: str, batches: int = 5) -> Run:
    """Run PyG's training loop, then evaluation; the first batch of each epoch covers all nodes."""
    run = Run(build_memory(kind, (30, 16, 20, 12)))
    optimizer = torch.optim.SGD(run.memory.parameters(), lr=0.01)
    random = torch.Generator().manual_seed(1)
    for _ in range(2):
        run.memory.train()
        run.memory.reset_state()
        for batch in range(batches):
            src, dst = torch.randperm(30, generator=random), torch.randperm(30, generator=random)
            t = 5 * batch + torch.randint(0, 4, (30,), generator=random).sort().values
            optimizer.zero_grad()
            run.read(torch.randperm(30, generator=random)[: 30 if batch else 5].tolist())
            run.update(list(zip(src.tolist(), dst.tolist(), t.tolist(), strict=True)))
            run.backward()  # after update_state has written, as in PyG's example
            optimizer.step()
        with torch.no_grad():
            run.memory.eval()
            run.read([3, 1, 2])
            run.update([(1, 2, 40), (2, 1, 41)])
            run.read(list(range(30)))
    run.note("parameters", *run.memory.parameters())
    return run


def test_the_loop_of_pygs_example_agrees_with_the_installed_pyg() -> None:
    torch.testing.assert_close(loop("fused").outputs, loop("pyg").outputs, rtol=1e-9, atol=1e-9)


def test_the_loop_on_triton_kernels(interpreter: None) -> None:
    torch.testing.assert_close(loop("fused", 2).outputs, loop("fixed", 2).outputs, rtol=1e-9, atol=1e-9)


def test_a_nodes_memory_does_not_depend_on_the_nodes_read_with_it() -> None:
    """Without torch_scatter, PyG fails here: node 3 gets a message of node 0."""
    memory = build_memory("fused")
    memory.update_state(torch.zeros(4).long(), torch.ones(4).long(), torch.arange(4), torch.ones(4, WIDTH))
    together, alone = memory(torch.tensor([0, 3]))[0][1], memory(torch.tensor([3]))[0][0]
    assert torch.equal(together, alone)


def test_the_same_seed_gives_the_same_parameters_and_a_pyg_checkpoint_loads() -> None:
    theirs, ours = build_memory("pyg"), build_memory("fused")
    parameters = dict(ours.named_parameters())
    assert list(parameters) == [name for name, _ in theirs.named_parameters()]
    torch.testing.assert_close(parameters, dict(theirs.named_parameters()), rtol=0, atol=0)
    for memory, events in ((theirs, [(0, 1, 3), (4, 2, 4)]), (ours, [(3, 1, 7)])):
        with torch.no_grad():
            Run(memory).update(events)
    theirs.eval()  # applies the messages, which PyG's checkpoint would lose
    parent = torch.nn.ModuleDict({"memory": ours})
    parent.load_state_dict({f"memory.{name}": value for name, value in theirs.state_dict().items()})
    after = []
    for memory in (theirs, ours):
        run = Run(memory.train() or memory)  # PyG's train returns None
        run.update([(0, 1, 8)])
        run.read(list(range(NODES)))
        after.append(run.outputs)
    torch.testing.assert_close(after[1], after[0], rtol=1e-10, atol=1e-10)


def test_a_checkpoint_during_training_keeps_the_mail() -> None:
    first = Run(build_memory("fused"))
    first.update([(0, 1, 3), (4, 2, 4), (2, 2, 4)])
    second = build_memory("fused")
    second.load_state_dict(first.memory.state_dict())
    nodes = torch.arange(NODES)
    torch.testing.assert_close(second(nodes), first.memory(nodes), rtol=0, atol=0)
    assert not torch.equal(second(nodes)[0], build_memory("fused")(nodes)[0])


@pytest.mark.parametrize("mode", [True, False])
def test_no_features_and_no_events(mode: bool) -> None:
    memory = build_memory("fused", (NODES, 0, DIM, TIMES)).train(mode)
    empty = torch.zeros(0).long()
    memory.update_state(empty, empty, empty, torch.zeros(0, 0))
    memory.update_state(torch.tensor([1]), torch.tensor([2]), torch.tensor([3]), torch.zeros(1, 0))
    h, times = memory(torch.arange(NODES, dtype=torch.int32))
    assert h.shape == (NODES, DIM)
    assert times.tolist() == [0, 3, 3, 0, 0]
    assert memory(empty)[0].shape == (0, DIM)


def test_repeated_events_count_once_in_the_gradient() -> None:
    """A batch writes several copies of a node, and one of them carries the gradient."""
    gradients = []
    for events in ([(0, 1, 5)], [(0, 1, 5), (0, 1, 5), (1, 0, 5)]):
        run = Run(build_memory("fused"))
        run.update([(0, 1, 1)])
        src, dst, t = torch.tensor(events).unbind(1)
        run.memory.update_state(src, dst, t, torch.ones(len(events), WIDTH))
        run.memory.memory.sum().backward()
        gradients.append([parameter.grad for parameter in run.memory.parameters()])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            {"aggregator_module": MeanAggregator()},
            "aggregator_module is a .*MeanAggregator; give PyG.s LastAggregator",
        ),
        ({"message_module": torch.nn.Identity()}, "message_module is a Identity; give PyG.s IdentityMessage"),
        ({"message_module": IdentityMessage(1, 3, 4)}, "messages of width 11, but .* is 12"),
    ],
)
def test_other_modules_are_refused(modules: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        FusedTGNMemory(NODES, WIDTH, DIM, TIMES, **modules)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t": torch.ones(2)}, r"t is torch.float32; give .* as with t.to\(torch.int64\)"),
        ({"raw_msg": torch.ones(2, 3)}, r"raw_msg is \(2, 3\), not \(2, 2\)"),
        ({"src": torch.ones(2)}, "src is torch.float32"),
        ({"dst": torch.tensor([0])}, r"src, dst and t are \(2,\), \(1,\), \(2,\); give equal lengths"),
    ],
)
def test_bad_events_are_refused(change: dict[str, torch.Tensor], message: str) -> None:
    ids = torch.tensor([0, 1])
    events = {"src": ids, "dst": ids, "t": ids, "raw_msg": torch.ones(2, WIDTH), **change}
    with pytest.raises(ValueError, match=message):
        build_memory("fused").update_state(**events)


def test_the_module_needs_no_pyg() -> None:
    code = "import sys, mspipe_triton.kernels.pyg; sys.exit('torch_geometric' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.parametrize("kind", ["fused", "pyg"])
def test_example(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    main: Callable[[list[str]], None] = runpy.run_path(str(EXAMPLE))["main"]
    main(["--memory", kind, "--events", "600", "--epochs", "2", "--batch-size", "100"])
    assert len(re.findall(r"epoch \d .* test AP 0\.\d{4}", capsys.readouterr().out)) == 2
