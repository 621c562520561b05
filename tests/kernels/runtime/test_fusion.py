"""Fusion: the same results as eager torch, a fallback from a broken compiler, imports of the kernels alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from mspipe_triton.kernels import memory_gru, temporal_attention
from mspipe_triton.kernels.runtime import fusion
from tests.kernels.comparing import Agree, Derived, Tensors
from tests.kernels.updaters.updater_case import RNN, Case

ROOT = Path(__file__).resolve().parents[3]

BROKEN_COMPILER = """
import torch
from mspipe_triton.kernels import memory_gru
from mspipe_triton.kernels.runtime import fusion

torch.manual_seed(0)
rows = [torch.randn(123, width, requires_grad=True) for width in (8, 8, 3)]
sources = [part for table in rows for part in (table, None)]
weights = [torch.randn(*shape, requires_grad=True) for shape in ((4,), (4,), (24, 23), (24, 8), (24,), (24,))]

deltas, has_mail = torch.rand(123), torch.arange(123) % 3 > 0

def run():
    h = memory_gru(*sources, deltas, has_mail, *weights)
    return [h, *torch.autograd.grad(h.sum(), [*rows, *weights])]

eager = run()
fusion.enable_fusion(True)
assert fusion.fusion_enabled()
assert all(torch.equal(a, b) for a, b in zip(run(), eager, strict=True))
assert not fusion.fusion_enabled()
fusion.enable_fusion(True)
assert not fusion.fusion_enabled(), "fusion is on again after a failure"
assert all(torch.equal(a, b) for a, b in zip(run(), eager, strict=True))
print(fusion.fusion_failure())
"""

IMPORTS = """
import sys
import mspipe_triton.kernels
heavy = ("mspipe_triton.training", "optuna", "typer", "rich", "pyarrow")
print([name for name in sys.modules if name.startswith(heavy)])
print(mspipe_triton.kernels.runtime.fusion.fusion_enabled(), mspipe_triton.kernels.runtime.fusion.fusion_failure())
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter from the checkout's root."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Turn fusion on, and forget what other tests compiled or broke."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"no C++ compiler: {compiler} is not on the path")
    if os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        pytest.skip("TORCHDYNAMO_DISABLE=1 turns torch.compile off")
    torch._dynamo.reset()
    monkeypatch.setattr(fusion._State, "failure", None)
    fusion.enable_fusion(True)
    yield
    fusion.enable_fusion(False)


def leaves_of(**shapes: tuple[int, ...]) -> Tensors:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def gru(leaves: Tensors, nodes: int) -> tuple[torch.Tensor, ...]:
    """Call memory_gru on `nodes` rows, a third of them without mail."""
    times = torch.rand(nodes, generator=torch.Generator().manual_seed(2)) * 100
    cut = [leaves[name][:nodes] for name in ("memory", "partner", "features")]
    sources = [part for table in cut for part in (table, None)]
    weights = [leaves[name] for name in leaves if name not in ("memory", "partner", "features")]
    return (memory_gru(*sources, times, torch.arange(nodes) % 3 > 0, *weights),)


def attention(leaves: Tensors, roots: int) -> tuple[torch.Tensor, ...]:
    """Call temporal_attention on `roots` roots with up to 10 neighbours."""
    generator = torch.Generator().manual_seed(3)
    rows, counts = torch.randint(0, 50, (roots, 10), generator=generator), torch.arange(roots) % 11
    deltas = torch.rand(roots, 10, generator=generator) * 100
    query, bias = leaves["query"][:roots], leaves["bias"][:roots]
    features = torch.randn(roots * 10, 3, generator=generator).to(query.dtype)
    encoder = (leaves["frequency"], leaves["phase"])
    return temporal_attention(leaves["table"], rows, features, None, deltas, counts, *encoder, query, None, bias)


OPERATIONS: dict[str, tuple[Callable[[Tensors, int], tuple[torch.Tensor, ...]], Tensors]] = {
    "memory_gru": (
        gru,
        leaves_of(
            memory=(257, 16), partner=(257, 16), features=(257, 5), frequency=(6,), phase=(6,), weight_ih=(48, 43),
            weight_hh=(48, 16), bias_ih=(48,), bias_hh=(48,),
        ),
    ),
    "temporal_attention": (
        attention,
        leaves_of(table=(50, 16), frequency=(6,), phase=(6,), query=(257, 2, 25), bias=(257, 2)),
    ),
}  # fmt: skip


def results(name: str, size: int, dtype: torch.dtype) -> Tensors:
    """Outputs and gradients of all leaves, by name."""
    operation, values = OPERATIONS[name]
    leaves = {leaf: value.to(dtype).requires_grad_() for leaf, value in values.items()}
    outputs = operation(leaves, size)
    probes = [torch.linspace(-1, 1, output.numel(), dtype=dtype).view(output.shape) for output in outputs]
    loss = sum((output * probe).sum() for output, probe in zip(outputs, probes, strict=True))
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    tensors = {f"output {i}": output.detach() for i, output in enumerate(outputs)}
    return tensors | dict(zip(leaves, gradients, strict=True))


def test_compiling_is_true_while_torch_compiles(fused: None) -> None:
    states = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        states.append(fusion.compiling())
        return graph.forward

    fusion._watch_compilations()
    fusion._watch_compilations()
    assert not fusion.compiling()
    function = torch.compile(lambda x: x + 1, backend=backend)
    assert function(torch.ones(3)).tolist() == [2, 2, 2]
    assert states == [True]
    assert not fusion.compiling()
    assert torch._dynamo.callback.callback_handler.start_callbacks.count(fusion._compilation_started) == 1


@pytest.mark.parametrize("name", ["memory_gru", pytest.param("temporal_attention", marks=pytest.mark.slow)])
def test_compiled_equals_eager(name: str, fused: None, derived: Derived) -> None:
    seconds = fusion.compile_seconds()
    compiled = {size: results(name, size, torch.float32) for size in (123, 257)}
    assert fusion.fusion_failure() is None
    assert fusion.fusion_enabled()
    assert fusion.compile_seconds() > seconds, "nothing was compiled"
    assert torch.compiler.config.cache_key_tag, "the cache does not separate processors"
    fusion.enable_fusion(False)
    for size, tensors in compiled.items():
        derived(tensors, results(name, size, torch.float32), partial(results, name, size, torch.float64))


def test_memory_rnn_without_features_compiles(fused: None, agree: Agree) -> None:
    case = Case(RNN, 123, width=0, padding=2)
    compiled = case.with_gradients(case.actual())
    assert fusion.fusion_failure() is None
    fusion.enable_fusion(False)
    agree(compiled, case.with_gradients(case.actual()))


def test_a_callers_error_passes_through_a_fused_function(fused: None) -> None:
    @fusion.fused()
    def add(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return first + second

    with pytest.raises(RuntimeError, match="must match"):
        add(torch.zeros(3, 2), torch.zeros(3, 5))
    assert fusion.fusion_failure() is None


def test_after_the_limit_nothing_compiles_and_compiled_code_runs_on(fused: None) -> None:
    @fusion.fused()
    def double(x: torch.Tensor) -> torch.Tensor:
        runs.append(torch.compiler.is_compiling())
        return x + x

    runs: list[bool] = []
    narrow, wide = torch.rand(9, 3), torch.rand(9, 5)
    assert torch.equal(double(narrow), 2 * narrow)
    seconds = fusion.compile_seconds()
    fusion.limit_compiling(time.perf_counter())
    try:
        del runs[:]
        assert torch.equal(double(narrow[:4]), 2 * narrow[:4])
        assert torch.equal(double(wide), 2 * wide)
        assert runs == [True, False], "the narrow call should run compiled, the wide one eagerly"
        assert fusion.compile_seconds() == seconds
    finally:
        fusion.limit_compiling()
    assert torch.equal(double(wide), 2 * wide)
    assert fusion.compile_seconds() > seconds
    assert fusion.fusion_enabled()


def test_fusion_stays_off_if_dynamo_is_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion._State, "failure", None)
    for value, enabled in (("0", True), ("1", False)):
        monkeypatch.setenv("TORCHDYNAMO_DISABLE", value)
        fusion.enable_fusion(True)
        assert fusion.fusion_enabled() is enabled


@pytest.mark.slow
def test_a_broken_compiler_falls_back_to_eager() -> None:
    process = python(BROKEN_COMPILER, CXX="/bin/false", TORCHINDUCTOR_FORCE_DISABLE_CACHES="1", TORCHDYNAMO_DISABLE="0")
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("torch.compile failed (")
    assert not lines[0].endswith("raised:)"), "the error is missing"


OTHER_PROCESSOR = """
import torch
from mspipe_triton.kernels.runtime import fusion

fusion.enable_fusion(True)

@fusion.fused()
def scale(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.exp(x) * y.unsqueeze(1) + x[:, :16].sum(1, keepdim=True)

x, y = torch.ones(123, 37), torch.arange(123.0)
torch.testing.assert_close(scale(x, y), torch.e * y.unsqueeze(1).expand(123, 37) + 16)
print(fusion.fusion_failure())
"""


@pytest.mark.slow
def test_the_cache_gives_no_loops_compiled_for_other_vectors(tmp_path: Path) -> None:
    """Share a cache between two machines; torch alone would run the first one's code on the second, which is wrong."""
    for capability in ("", "default"):
        environment = {"ATEN_CPU_CAPABILITY": capability} if capability else {}
        process = python(OTHER_PROCESSOR, TORCHINDUCTOR_CACHE_DIR=str(tmp_path), TORCHDYNAMO_DISABLE="0", **environment)
        assert process.stdout == "None\n", process.stderr


def test_kernels_import_alone_and_with_fusion_off() -> None:
    process = python(IMPORTS)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == ["[]", "False None"]


def test_importing_the_folder_by_its_bare_name_names_the_package() -> None:
    process = python("import kernels")
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("ImportError: ")
    assert "mspipe_triton.kernels" in process.stderr.splitlines()[-1]


@pytest.mark.usefixtures("fused")
def test_a_compiled_function_serves_every_number_of_threads() -> None:
    """One compilation, and a sum that threads share stays right for fewer and more of them; whole numbers are exact."""

    @fusion.fused()
    def total(x: torch.Tensor) -> torch.Tensor:
        return (x * 2 + 1).sum()

    threads, x = torch.get_num_threads(), (torch.arange(640_000) % 7).float().view(40_000, 16)
    expected, graphs = (x.double() * 2 + 1).sum().float(), list[int]()
    try:
        for number in (2, 1, 4, 2):
            torch.set_num_threads(number)
            assert torch.equal(total(x), expected)
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    finally:
        torch.set_num_threads(threads)
    assert graphs == [graphs[0]] * 4
    assert graphs[0]


@pytest.mark.usefixtures("fused")
def test_deterministic_algorithms_have_compiled_functions_of_their_own() -> None:
    @fusion.fused()
    def doubled(x: torch.Tensor) -> torch.Tensor:
        return x.sin() * 2

    x = torch.randn(100, 8)
    doubled(x)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch.use_deterministic_algorithms(True)
    try:
        torch.testing.assert_close(doubled(x), x.sin() * 2)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs + 1
