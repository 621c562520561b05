"""The script of the guide to several devices, as torchrun starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.data.writers import write_stream
from tests.conftest import ROOT


@pytest.mark.slow
def test_a_script_trains_on_two_ranks(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "guides" / "ranks.md").read_text(encoding="utf-8")
    (script,) = (block for block in page.split("```\n")[1::2] if block.startswith("# shared.py"))
    (tmp_path / "shared.py").write_text(script, encoding="utf-8")
    write_stream(synthetic_stream(SyntheticConfig(events=3000)), tmp_path / "events.csv", False)
    arguments = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "shared.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TORCHDYNAMO_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    ranks = [line.split() for line in done.stdout.splitlines()]
    assert [count for count, _ in ranks] == ["2", "2"]
    assert ranks[0] == ranks[1]
    assert float(ranks[0][1]) > 0.55
    assert (tmp_path / "runs" / "script" / "result.json").exists()
