"""Files that keep a server running: systemd's unit and the image's Dockerfile call the command as it is."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest
import typer.main

from mspipe_triton import load
from mspipe_triton.cli.commands import app
from mspipe_triton.serving.service.running import is_local
from tests.serving.served import shop
from tests.serving.service.services import wait_for
from tests.test_serving_page import free_port

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "deploy" / "mspipe-triton.service"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
MINUTES = 15


def flags(words: list[str]) -> dict[str, Any]:
    """The values that `mspipe-triton serve` takes from the words after it, which it must know."""
    command: Any = typer.main.get_command(app)
    parsed: dict[str, Any] = command.commands["serve"].make_context("serve", list(words)).params
    return parsed


def unit() -> RawConfigParser:
    parser = RawConfigParser(strict=True, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment]  # names have capitals
    parser.read(UNIT)
    return parser


def instructions() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile with their arguments, on one line each."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


def argument(name: str) -> str:
    (rest,) = [rest for each, rest in instructions() if each == name]
    return rest


def copied() -> list[tuple[str, str]]:
    """Files and folders that the image has, with their places."""
    pairs = []
    for name, rest in instructions():
        *sources, target = rest.split()
        if name == "COPY":
            pairs += [(each, f"./{each}" if target == "./" else target) for each in sources]
    return pairs


def test_the_unit_calls_serve_with_its_flags() -> None:
    service = unit()["Service"]
    program, command, *words = shlex.split(service["ExecStart"])
    values = flags(words)
    assert (Path(program).name, command, values["port"]) == ("mspipe-triton", "serve", 8000)
    assert values["state"] == f"/var/lib/{service['StateDirectory']}"
    assert is_local(values["host"])  # so that it starts without a token
    assert service["EnvironmentFile"].startswith("-")
    assert service["User"] != "root"
    assert (service["Restart"], service["KillSignal"]) == ("on-failure", "SIGTERM")
    assert service["ProtectSystem"] == "strict"
    assert "MemoryDenyWriteExecute" not in service  # torch makes code


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    program = shlex.split(unit()["Service"]["ExecStart"])[0]
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(program, shutil.which("true") or "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, [line for line in done.stderr.splitlines() if UNIT.name in line]) == (0, [])


def test_the_image_calls_serve_with_its_flags() -> None:
    program, command, *words = json.loads(argument("ENTRYPOINT"))
    values = flags(words)
    assert (program, command, values["host"]) == ("mspipe-triton", "serve", "0.0.0.0")
    assert str(values["port"]) == argument("EXPOSE")
    assert values["state"] == argument("VOLUME")
    assert argument("USER") != "root"
    assert "TOKEN" not in "".join(rest for name, rest in instructions() if name in ("ENV", "ARG"))
    check = json.loads(re.sub(r"^.*CMD ", "", argument("HEALTHCHECK")))
    compile(check[-1], "HEALTHCHECK", "exec")
    assert f"127.0.0.1:{values['port']}/health" in check[-1]


def test_the_image_has_what_the_installation_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    places = dict(copied())
    assert all((ROOT / source).exists() for source in places)
    folders = {name for name in places if (ROOT / name).is_dir()}
    packages = project["tool"]["setuptools"]["package-dir"]
    assert folders == {"mspipe_triton", *packages.values()}
    assert {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]} <= places.keys()


@pytest.mark.slow
def test_the_commands_of_the_image_work_in_a_clean_environment(tmp_path: Path) -> None:
    """The files are copied, the package is installed and the server answers; the image itself needs Docker."""
    source, model, state = tmp_path / "source", tmp_path / "model", tmp_path / "state"
    source.mkdir()
    state.mkdir()
    for name, place in copied():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / place)  # type: ignore[operator]
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=120)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PATH": f"{tmp_path / 'venv' / 'bin'}:{environment['PATH']}", "MSPIPE_TOKEN": "secret"}
    (install,) = [rest for name, rest in instructions() if name == "RUN" and rest.startswith("pip ")]
    subprocess.run(["sh", "-c", install], cwd=source, env=environment, check=True, timeout=60 * MINUTES)
    load(shop(tmp_path)).save(model)
    port = str(free_port())
    changes = {"/model": str(model), "/state": str(state), argument("EXPOSE"): port}
    words = [changes.get(word, word) for word in json.loads(argument("ENTRYPOINT"))]
    check = [
        word.replace(argument("EXPOSE"), port) for word in json.loads(argument("HEALTHCHECK").partition("CMD ")[2])
    ]
    with (tmp_path / "output").open("w") as output:
        server = subprocess.Popen(words, cwd=state, env=environment, stdout=output, stderr=output)
        try:
            wait_for(lambda: subprocess.run(check, env=environment, capture_output=True, timeout=60).returncode == 0)
        finally:
            server.send_signal(signal.SIGTERM)
            status = server.wait(60)
    assert status == 0, (tmp_path / "output").read_text()
    assert (state / "events.db").exists()
