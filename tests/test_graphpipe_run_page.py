"""Guide to training with a plan: its commands and programs work as printed, in the order of the page."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "guides" / "graphpipe-run.md").read_text(encoding="utf-8")
TOWERS, RESTORE, LOOP = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^(?:mspipe-triton|torchrun) .*$", PAGE, re.MULTILINE)
PLAN, RUN, TORCHRUN, SCRIPT, PROFILE, AGAIN, TYPED_PLAN, TYPED_RUN = COMMANDS
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def page(tmp_path: Path, process: Command) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """A folder with the module that the page writes, in which commands run as in a shell."""
    (tmp_path / "towers.py").write_text(TOWERS, encoding="utf-8")
    (tmp_path / "train.py").write_text(LOOP, encoding="utf-8")

    def run(line: str) -> subprocess.CompletedProcess[str]:
        words, _, file = line.partition(" > ")
        if words.startswith("torchrun"):
            command = [sys.executable, "-m", "torch.distributed.run", *words.split()[1:]]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        else:
            done = process(*words.split()[1:])
        assert done.returncode == 0, done.stderr
        if file:
            (tmp_path / file).write_text(done.stdout, encoding="utf-8")
        return done

    return run


@pytest.mark.slow
def test_a_first_run_and_its_module(
    page: Callable[[str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page(PLAN)
    page(f"{RUN} --checkpoint checkpoints")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, object] = {}
    exec(compile(f"{TOWERS}\n{RESTORE.replace('from towers import Towers', '')}", "guide", "exec"), names)
    model, samples = names["model"], names["samples"]
    assert callable(model)
    assert callable(samples)
    assert model(*samples(64)).item() < 1


@pytest.mark.slow
def test_the_other_commands(page: Callable[[str], object], tmp_path: Path) -> None:
    page(PLAN)
    page(TORCHRUN)
    page(SCRIPT)
    assert list((tmp_path / "own").glob("step-*/stage-0.pt"))
    page(PROFILE)
    page(AGAIN)
    page(f"{RUN}")


@pytest.mark.slow
def test_the_example_with_several_types_of_events(page: Callable[[str], object]) -> None:
    page(TYPED_PLAN)
    page(TYPED_RUN)


def test_flags_are_those_of_the_command(command: Command) -> None:
    table = PAGE[PAGE.index("| flag |") : PAGE.index("## The model and the data")]
    described = set(re.findall(r"--[a-z][a-z-]*", table)) - {"--nproc-per-node"}
    shown = command("graphpipe", "run", "--help", COLUMNS="200", TERM="dumb").stdout
    assert described == set(re.findall(r"--[a-z][a-z-]*", shown)) - {"--help", "--nproc-per-node"}
