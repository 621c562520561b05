"""Ahead-of-time compilation of the default configurations: they compile for sm_80 and sm_90 without spills."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.aot import rows as aot
from bench.aot import versions
from bench.aot.launches import CASES, launches
from mspipe_triton.kernels.runtime.compiling import CAPABILITIES, SHARED_LIMIT, compile_launch
from mspipe_triton.kernels.runtime.launch import KERNELS, recording

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton has no wheel for this platform")
@pytest.mark.parametrize(
    ("arithmetic", "capability"),
    [
        ("float32", 90),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("float32", 80), ("ieee", 90), ("float64", 90))),
    ],
)
def test_defaults_compile_without_a_stack(arithmetic: str, capability: int) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "bench.aot", "--defaults", arithmetic, "--capability", str(capability)],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    for name, kernel in KERNELS.items():
        if arithmetic in kernel.configs:
            assert f"`{name}` (default) | {arithmetic} |" in run.stdout, name


BARRIER = """
import re
from bench.aot.launches import CASES, launches
from mspipe_triton.kernels.runtime.compiling import compiled

launch = next(each for each in launches(CASES[0]) if each.kernel.name == "ring_kernel")
for config in launch.kernel.configs["float32"]:
    text = compiled(launch, config, 90).asm["ptx"]
    patterns = (r"ld\\.global\\S*b64", r"bar\\.sync", r"st\\.global\\S*b64")
    loads, barrier, store = (re.search(pattern, text) for pattern in patterns)
    assert loads.start() < barrier.start() < store.start(), config
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton has no wheel for this platform")
def test_all_warps_read_a_ring_before_one_advances_it() -> None:
    """The first 64-bit store is the count; the compiler loads it once for every layout that needs it."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", BARRIER], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]


def test_faults() -> None:
    row = {
        "kernel": "recent_kernel", "arithmetic": "float32", "config": 0, "blocks": "", "capability": 80, "case": "c",
        "registers": 255, "stack": 0, "shared": SHARED_LIMIT[80], "matrix": "",
    }  # fmt: skip
    others = {fault for fault in aot.faults([row], {"float32"}) if "never launched" not in fault}
    assert not others
    assert any("stack 8 bytes" in fault for fault in aot.faults([{**row, "stack": 8}], {"float32"}))
    faults = aot.faults([{**row, "shared": SHARED_LIMIT[80] + 1}], {"float32"})
    assert any("shared memory" in fault for fault in faults)
    assert "unique_insert_kernel was never launched in float32" in faults


def test_compiling_in_the_interpreter_is_an_error() -> None:
    with recording() as log:
        pass
    assert log == []
    with pytest.raises(RuntimeError, match="without TRITON_INTERPRET"):
        compile_launch(None, None, 90)


def checked_rows(file: Path) -> list[dict[str, Any]]:
    """Read a result's rows, and check that they cover every shipped configuration, none with a stack."""
    document = json.loads(file.read_text())
    rows = {(row["kernel"], row["arithmetic"], row["config"], row["capability"]) for row in document["rows"]}
    shipped = {
        (name, arithmetic, number, capability)
        for name, kernel in KERNELS.items()
        for arithmetic, configs in kernel.configs.items()
        for number in range(len(configs))
        for capability in CAPABILITIES
    }
    assert rows == shipped, "run `make aot`"
    assert aot.faults(document["rows"], {"float32", "float64", "ieee"}) == []
    for row in document["rows"]:
        config = KERNELS[row["kernel"]].configs[row["arithmetic"]][row["config"]]
        assert row["blocks"] == aot.describe(config), f"run `{document['command']}`"
    return document["rows"]


def test_committed_table_covers_every_kernel_and_configuration() -> None:
    page = aot.TABLE.path.read_text()
    expected = aot.TABLE.page_with(aot.table(checked_rows(aot.TABLE.result_path)))
    assert page == expected, "docs/measured/kernels.md differs from the page that `make aot` writes"


def test_no_configuration_has_a_stack_with_triton_3_6() -> None:
    """Triton 3.6 once spilled in the defaults of five kernels."""
    path = aot.TABLE.result_path.with_name("aot-3.6.json")
    checked_rows(path)
    assert json.loads(path.read_text())["versions"]["triton"] == "3.6.0"


def test_every_kernel_compiles_with_other_versions_of_triton() -> None:
    document = json.loads(versions.TABLE.result_path.read_text())
    pairs = {(row["triton"], row["arithmetic"]) for row in document["rows"]}
    assert pairs == {(version, kind) for version in document["versions"]["triton"] for kind in versions.KINDS}
    assert not any(row["failed"] for row in document["rows"])
    oldest = min(tuple(map(int, version.split("."))) for version in document["versions"]["triton"])
    assert oldest[:2] == (3, 5), "the oldest version that pyproject.toml allows"
    page = versions.TABLE.path.read_text()
    assert versions.TABLE.page_with(versions.table(document["rows"])) == page, "run `python -m bench.aot.versions`"


def test_products_in_float64_have_no_narrow_arguments() -> None:
    """Triton before 3.9 does not compile products that depend on narrow numbers (see `updaters/inputs.py`, `flags`)."""
    double = next(case for case in CASES if case.arithmetic == "float64")
    products = [launch for launch in launches(double) if "PRECISION" in launch.constants]
    assert {"fused_gru_kernel", "fused_rnn_kernel", "weights_backward_kernel"} <= {
        each.kernel.name for each in products
    }
    for launch in products:
        sizes = [each.element_size() for each in launch.arguments if isinstance(each, torch.Tensor)]
        assert min(sizes) >= 4, launch.kernel.name


def test_table_lists_failures_of_a_version() -> None:
    row = {
        "triton": "3.5.1", "arithmetic": "float64", "compilations": 2, "stacks": [{"kernel": "a", "bytes": 8}],
        "failed": [{"kernel": "b", "capability": 80}, {"kernel": "b", "capability": 90}],
    }  # fmt: skip
    assert versions.table([row]).splitlines()[-1] == "| 3.5.1 | float64 | 2 | `b` | `a` 8 |"
