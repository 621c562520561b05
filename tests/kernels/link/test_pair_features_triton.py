"""The kernel of pair_features in Triton's interpreter: values, sizes, types, configurations, registration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.kernels import pair_features
from mspipe_triton.kernels.link.pair_kernel import pair_features_kernel
from mspipe_triton.kernels.runtime import launch
from tests.kernels.comparing import Derived
from tests.kernels.link.pair_case import Case, cases, random_case
from tests.kernels.sampling.graph_case import launches_of

F32, F64 = torch.float32, torch.float64

pytestmark = pytest.mark.skipif(launch.triton is None, reason="triton has no wheel for this platform")


def check(arguments: dict[str, Any], derived: Derived) -> torch.Tensor:
    """Compare the kernel's columns with the reference in float64, and return its features."""
    features = pair_features.launch(**arguments)

    def columns(values: torch.Tensor) -> dict[str, torch.Tensor]:
        return {f"column {k}": values[..., k] for k in range(values.shape[2])}

    double = {**arguments, "dtype": F64}
    derived(columns(features), columns(features), lambda: columns(pair_features.reference(**double)))
    return features


@settings(deadline=None, max_examples=25)
@given(case=cases(), dtype=st.sampled_from([F32, F64]))
def test_any_stream(case: Case, dtype: torch.dtype, derived: Derived) -> None:
    check(case.arguments(dtype), derived)


@pytest.mark.sample(3)
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("newer", [0, 1, 70])
@pytest.mark.parametrize(("queries", "candidates"), [(0, 2), (1, 1), (3, 0), (41, 3), (13, 5), (65, 1)])
@pytest.mark.usefixtures("poisoned")
def test_sizes(queries: int, candidates: int, newer: int, dtype: torch.dtype, derived: Derived) -> None:
    """Include 123 pairs, and one over a block."""
    features = check(random_case(200, queries, candidates, newer).arguments(dtype), derived)
    assert features.shape == (queries, candidates, 36)


@pytest.mark.parametrize("events", [0, 1, 2])
@pytest.mark.usefixtures("poisoned")
def test_short_streams(events: int, derived: Derived) -> None:
    check(random_case(events, 20, 2).arguments(F32), derived)


@pytest.mark.sample(2)
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("kind", [torch.int64, torch.float64])
@pytest.mark.usefixtures("poisoned")
def test_types_and_layouts(index: torch.dtype, kind: torch.dtype, derived: Derived) -> None:
    case = random_case(200, 20, 3, 50)
    case.kind = kind
    arguments = case.arguments(F32)
    arguments |= {name: arguments[name].to(index) for name in ("src", "dst", "earlier", "partners")}
    arguments["popularity"] = arguments["popularity"].float()
    wide = arguments["dst"].repeat_interleave(2, 0)[::2]
    assert torch.equal(check({**arguments, "dst": wide}, derived), check(arguments, derived))


@pytest.mark.usefixtures("poisoned")
def test_padding() -> None:
    arguments = random_case(200, 70, 3).arguments(F32)
    real = (arguments["src"] >= 0).unsqueeze(1) & (arguments["dst"] >= 0)
    features = pair_features.launch(**arguments)
    assert not real.all()
    assert not features[~real].any()


@pytest.mark.parametrize("config", pair_features_kernel.configs["float32"], ids=str)
@pytest.mark.usefixtures("poisoned")
def test_every_configuration(config: launch.Config, derived: Derived, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pair_features_kernel.chosen, "float32", config)
    check(random_case(200, 43, 3, 30).arguments(F32), derived)


def test_one_launch_and_no_wait() -> None:
    arguments = random_case(200, 20, 3).arguments(F32)
    assert launches_of(lambda: pair_features.launch(**arguments)) == (["pair_features_kernel"], {"new_empty"})


def test_the_operation_passes_opcheck_and_compiles_as_one_graph() -> None:
    arguments = random_case(200, 20, 3, 50).arguments(F32)
    torch.library.opcheck(torch.ops.mspipe_triton.pair_features.default, tuple(arguments.values()))
    compiled = torch.compile(pair_features, fullgraph=True, backend="aot_eager")(**arguments)
    assert torch.equal(compiled, pair_features(**arguments))
