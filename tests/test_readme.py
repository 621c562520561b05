"""Every command and Python example of the README and the pages runs, on small data and in the order it stands in."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest

from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.data.writers import write_stream

Command = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "TRITON_INTERPRET": "0", "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1"}
# Flags that make each command small enough for a test; a later flag overrides an earlier one.
SMALLER = {
    "train": ["--epochs", "1", "--batch-size", "100", "--dim", "8", "--negatives", "3", "--no-autotune"],
    "autotune": ["--batch-size", "100", "--dim", "8", "--threads", "1", "--budget", "3"],
    "generate": ["--events", "900"],
}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def run(arguments: list[str], cwd: Path) -> None:
    environment = {**ENVIRONMENT, "MAKEFLAGS": ""}
    environment["XDG_CACHE_HOME"] = str(cwd / "cache" if cwd != ROOT else ROOT / ".pytest_cache")
    done = subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout}\n{done.stderr}"


GUIDES = ("data", "devices", "models", "pyg", "python", "schedules", "training", "tuning")
PAGES = [
    "README.md",
    *(f"docs/guides/{name}.md" for name in GUIDES),
    "docs/measured/peers.md",
]
SLOW = ("docs/guides/pyg.md", "docs/measured/peers.md")


@pytest.mark.parametrize("page", [pytest.param(page, marks=pytest.mark.slow if page in SLOW else ()) for page in PAGES])
def test_commands(page: str, tmp_path: Path, command: Command) -> None:
    commands = [line for block in blocks(page, "bash") for line in block.splitlines() if line]
    assert commands or page == "docs/guides/python.md"
    if not any("generate events.csv" in line for line in commands):
        write_stream(synthetic_stream(SyntheticConfig(events=900, users=40, items=20)), tmp_path / "events.csv")
    for line in commands:
        words = shlex.split(line)
        if words[0] == "make":
            check_make(words, tmp_path)
        elif words[0] == "python":
            run([sys.executable, *words[1:], "--events", "600", "--epochs", "1"], ROOT)
        else:
            assert words[0] == "mspipe-triton"
            extra = next((more for name, more in SMALLER.items() if name in words), [])
            done = command(*words[1:], *extra)
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def check_make(words: list[str], tmp_path: Path) -> None:
    """Run a make target on small data; `make test` would run this test, so of that one only the recipe is looked at."""
    if not (ROOT / ".venv" / "installed-dev").exists():
        pytest.skip("the checkout was not installed with make")
    small = tmp_path / "wiki.csv"
    write_stream(synthetic_stream(SyntheticConfig(events=900, users=40, items=20)), small, force=True)
    if words[1] == "install-dev":
        run(["make", "install-dev"], ROOT)
    elif words[1] == "test":
        recipe = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert "-m pytest" in recipe.stdout
    elif words[1] == "train":
        run(["make", "train", f"DATA={small}", f"ARGS={shlex.join(SMALLER['train'])} --out {tmp_path / 'run'}"], ROOT)
    else:
        assert words[1:] == ["peers", "DATA=wiki.csv"]
        arguments = ["--epochs", "1", "--batch-size", "100", "--dim", "8", "--fanout", "3", "--negatives", "3"]
        run(["make", "peers", f"DATA={small}", f"ARGS={shlex.join(arguments)}"], ROOT)


def test_python_examples(tmp_path: Path, command: Command) -> None:
    write_stream(synthetic_stream(SyntheticConfig(events=900, users=40, items=20)), tmp_path / "events.csv")
    assert command("train", "events.csv", "--out", "runs/first", *SMALLER["train"]).returncode == 0
    examples = [example for page in PAGES for example in blocks(page, "python")]
    assert len(examples) == 5
    small = [example.replace("epochs=1", "epochs=1, batch_size=100") for example in examples]
    apart = "\n".join(f"exec({example!r}, {{}})" for example in small)  # in one process, which imports once
    run([sys.executable, "-c", apart], tmp_path)


def test_predictions(tmp_path: Path, command: Command) -> None:
    """The blocks, one after the other, print what their comments say; "about" allows a tenth."""
    page = (ROOT / "docs" / "guides" / "predictions.md").read_text(encoding="utf-8")
    parts = re.findall(r"```(bash|python)\n(.*?)```", page, re.DOTALL)
    printed: list[str] = []
    for language, group in groupby(parts, key=lambda part: part[0]):
        code = "\n".join(block for _, block in group)
        if language == "bash":
            for line in code.splitlines():
                done = command(*shlex.split(line)[1:])
                assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            continue
        # Python's own lines are the only ones that start with a mark.
        code = re.sub(r"^print\((.*)\)  # ", r"print('>', \1)  # ", code, flags=re.MULTILINE)
        ran = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=280
        )
        assert ran.returncode == 0, ran.stderr
        printed += [line[2:] for line in ran.stdout.splitlines() if line.startswith("> ")]
    promised = re.findall(r"^print\(.*\)  # (.*)$", page, re.MULTILINE)
    assert len(printed) == len(promised) > 10
    for text, promise in zip(printed, promised, strict=True):
        if promise.startswith("about "):
            assert float(text) == pytest.approx(float(promise.removeprefix("about ")), abs=0.1)
        elif not promise.startswith("the "):
            assert text == promise


def test_kernels_example(tmp_path: Path) -> None:
    """The examples, one after the other, print what their comments say."""
    example = "\n".join(blocks("docs/guides/kernels.md", "python"))
    environment = {**os.environ, "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
    )
    promised = [line.split("  # ")[1] for line in example.splitlines() if line.startswith("print")]
    assert done.stdout.splitlines() == promised, done.stderr
