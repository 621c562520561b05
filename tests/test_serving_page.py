"""The guide to serving: its blocks run in order in one shell, and what cannot run is compared with the server."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from mspipe_triton import load
from mspipe_triton.cli.serve import serve
from mspipe_triton.serving.service.settings import ServiceSettings
from mspipe_triton.serving.service.web.limits import Limits
from mspipe_triton.serving.service.web.metrics import Metrics
from mspipe_triton.serving.service.work import Batch, Status
from tests.serving.served import shop
from tests.serving.service.services import purchase, same_bits, started

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "docs" / "guides" / "serving.md"
TEXT = GUIDE.read_text(encoding="utf-8")
PREDICTIONS = (ROOT / "docs" / "guides" / "predictions.md").read_text(encoding="utf-8")
PORT = "8417"
SECONDS = 200
MARK = "--- block"

Command = Callable[..., subprocess.CompletedProcess[str]]


def blocks(text: str, languages: str) -> list[tuple[str, str]]:
    """Languages and contents of the blocks in some languages."""
    return re.findall(rf"```({languages})\n(.*?)```", text, re.DOTALL)


def script(parts: list[tuple[str, str]]) -> str:
    """The blocks as one script of bash; a block of Python that starts with the name of a file is saved as that."""
    lines = ["set -eu", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for number, (language, code) in enumerate(parts):
        lines.append(f"echo; echo '{MARK} {number}'")
        if language == "bash":
            lines.append(code)
            continue
        name = re.match(r"# (\w+\.py)\n", code)
        # Python's own lines are the only ones that start with a mark.
        code = re.sub(r"^print\((.*)\)  # ", r"print('>', \1)  # ", code, flags=re.MULTILINE)
        lines.append(f"{f'cat > {name[1]}' if name else 'python -'} <<'PYTHON'\n{code}PYTHON")
    return "\n".join([*lines, "jobs -p > left"])


def programs(folder: Path) -> Path:
    """A folder with `python` and `mspipe-triton` of this checkout, without tuning."""
    python = shlex.quote(sys.executable)
    untuned = 'if [ "$1" = train ]; then set -- "$@" --no-autotune; fi'
    for name, text in {
        "python": f'exec {python} "$@"',
        "mspipe-triton": f'{untuned}\nexec {python} -m mspipe_triton "$@"',
    }.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def outputs(folder: Path, code: str) -> list[str]:
    """Run a script, and return the output of each block."""
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"TRITON_INTERPRET": "0", "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache")}
    (folder / "bin").mkdir()
    environment["PATH"] = f"{programs(folder / 'bin')}:{environment['PATH']}"
    with (folder / "out").open("w") as out, (folder / "errors").open("w") as errors:
        shell = subprocess.Popen(
            ["bash", "-c", code], cwd=folder, env=environment, stdout=out, stderr=errors, start_new_session=True
        )
        try:
            status = shell.wait(SECONDS)
        finally:
            if shell.poll() is None:
                os.killpg(shell.pid, signal.SIGKILL)
    printed, notes = ((folder / name).read_text(encoding="utf-8") for name in ("out", "errors"))
    assert status == 0, f"{printed}\n{notes}"
    assert not re.search("Traceback|leaked", notes), notes  # a server that stops has nothing to complain of
    return re.split(rf"{MARK} \d+\n", printed)[1:]


def promises(code: str) -> list[str]:
    """Comments of a block on what it prints."""
    return re.findall(r"^(?:print\(.*\)  )?# (?!\w+\.py$)(.*)$", code, re.MULTILINE)


def check(printed: str, code: str) -> None:
    """Compare what a block prints with what its comments say, where … stands for anything."""
    lines = [line.removeprefix("> ") for line in printed.splitlines()]
    for promise in promises(code):
        pattern = re.escape(promise).replace("…", ".*")
        place = next((place for place, line in enumerate(lines) if re.fullmatch(pattern, line)), None)
        assert place is not None, f"{promise}\nis not in\n{printed}"
        lines = lines[place + 1 :]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tables of the guide to predictions."""
    folder = tmp_path_factory.mktemp("tables")
    subprocess.run([sys.executable, "-c", blocks(PREDICTIONS, "python")[0][1]], cwd=folder, check=True, timeout=60)
    return folder


def train(folder: Path, tables: Path, command: Command, *more: str) -> None:
    """Train the run of the guide to predictions, a smaller one."""
    for path in tables.iterdir():
        shutil.copy(path, folder)
    line = next(code for _, code in blocks(PREDICTIONS, "bash") if "train march.csv" in code)
    done = command(*shlex.split(line)[1:], "--epochs", "1", "--dim", "8", *more)
    assert done.returncode == 0, done.stderr


def test_blocks_parse_and_use_flags_of_serve() -> None:
    parts = blocks(TEXT, "bash|python")
    assert sum(len(promises(code)) for _, code in parts) > 10
    for language, code in parts:
        if language == "python":
            compile(code, str(GUIDE), "exec")
            continue
        for words in (shlex.split(line, comments=True) for line in code.replace("\\\n", "").splitlines()):
            if words[:2] == ["mspipe-triton", "serve"]:
                flags = {word[2:].replace("-", "_") for word in words if word.startswith("--")}
                assert flags <= serve.__annotations__.keys(), words
    if shutil.which("bash") is not None:
        done = subprocess.run(["bash", "-n"], input=script(parts), capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_the_blocks_run_in_order(tables: Path, tmp_path: Path, command: Command) -> None:
    if missing := [name for name in ("bash", "curl", "sqlite3") if shutil.which(name) is None]:
        pytest.skip(f"the guide's commands need {missing[0]}")
    train(tmp_path, tables, command)
    parts = blocks(TEXT, "bash|python")
    printed = outputs(tmp_path, script(parts).replace(PORT, str(free_port())))
    assert len(printed) == len(parts)
    for each, (_, code) in zip(printed, parts, strict=True):
        check(each, code)
    assert (tmp_path / "left").read_text() == ""  # no server still runs


def test_the_log_becomes_a_table_that_training_reads(tables: Path, tmp_path: Path, command: Command) -> None:
    """A run without features goes on with the events of the log alone."""
    train(tmp_path, tables, command, "--columns", "features=")
    rows = [line.split(",")[:3] for line in (tables / "april.csv").read_text().splitlines()[1:]]
    with started(tmp_path / "runs" / "march", tmp_path / "state") as parts:
        parts.service.observe(Batch(*map(list, zip(*rows, strict=True)))).result()
    (tmp_path / "state" / "events.db").rename(tmp_path / "events-backup.db")
    (code,) = [code for language, code in blocks(TEXT, "python") if "later.csv" in code]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
    done = command("train", "--continue", "runs/march", "later.csv", "--epochs", "1", "--out", "runs/april")
    assert done.returncode == 0, done.stderr
    direct = load(tmp_path / "runs" / "march")
    direct.observe(*zip(*rows, strict=True))
    later = load(tmp_path / "runs" / "april")
    assert (len(later), later.time, set(later.nodes)) == (len(direct), direct.time, set(direct.nodes))


def test_events_are_taken_back_as_the_guide_says(tmp_path: Path) -> None:
    run, state = shop(tmp_path), tmp_path / "state"
    with started(run, state) as parts:
        for number in range(5):
            parts.service.observe(purchase(number)).result()
    (statements,) = re.findall(r'"(DELETE .*)"', TEXT)
    with closing(sqlite3.connect(state / "events.db", isolation_level=None)) as log:
        log.executescript(statements)
    shutil.rmtree(state / "snapshots")
    with started(run, state) as after, started(run, tmp_path / "other") as other:
        for number in range(3):
            other.service.observe(purchase(number)).result()
        for each in (after, other):
            each.service.observe(purchase(9)).result()
        same_bits(after.predictor, other.predictor)


class Moody(BaseHTTPRequestHandler):
    """A server that is away, busy and closed before it answers, and that refuses requests about scores."""

    moods: ClassVar[list[int]] = []
    requests: ClassVar[list[tuple[str | None, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.requests.append((self.headers["Idempotency-Key"], body))
        status = self.moods.pop(0)
        if not status:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(b'{"detail": "no"}')

    def log_message(self, *_: Any) -> None:
        pass


def test_the_client_sends_the_same_request_until_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [code for _, code in blocks(TEXT, "python") if code.startswith("# client.py")]
    client: dict[str, Any] = {}
    exec(code, client)
    pauses: list[int] = []
    monkeypatch.setattr(client["time"], "sleep", pauses.append)
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Moody) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        client["URL"] = f"http://127.0.0.1:{server.server_port}"
        Moody.moods[:], Moody.requests[:] = [503, 429, 0, 502, 200, 422], []
        assert client["ask"]("/observe", key="april-0", src=[7]) == {"detail": "no"}
        assert Moody.requests == [("april-0", b'{"src": [7]}')] * 5
        assert pauses == [0, 0, 1, 0]
        with pytest.raises(ValueError, match='"no"'):
            client["ask"]("/score", src=7)
        server.shutdown()
    with pytest.raises(ConnectionError, match="does not answer"):
        client["ask"]("/score", src=7)


def test_settings_of_prometheus_are_yaml() -> None:
    yaml = pytest.importorskip("yaml")
    scrape, alerts = [yaml.safe_load(code) for _, code in blocks(TEXT, "yaml")]
    assert f"localhost:{PORT}" in scrape["scrape_configs"][0]["static_configs"][0]["targets"]
    rules = alerts["groups"][0]["rules"]
    assert all({"alert", "expr"} <= rule.keys() <= {"alert", "expr", "for"} for rule in rules)


def test_alerts_name_metrics_that_exist() -> None:
    names = set(re.findall(r"mspipe_\w+", "".join(code for _, code in blocks(TEXT, "yaml"))))
    backend: Any = SimpleNamespace(status=Status)
    metrics = bytes(Metrics(backend, frozenset()).answer().body).decode()
    assert len(names) > 5
    assert [name for name in names if not re.search(rf"^# TYPE {name} ", metrics, re.MULTILINE)] == []


def test_limits_have_their_defaults() -> None:
    rows = re.findall(r"^\| `--([\w-]+)` \| (\d+) \| ", TEXT, re.MULTILINE)
    defaults = {each.name: each.default for each in (*fields(Limits), *fields(ServiceSettings))}
    assert {name.replace("-", "_") for name, _ in rows} == {each.name for each in fields(Limits)} | {"queue"}
    assert all(float(value) == defaults[name.replace("-", "_")] for name, value in rows)
    assert f"client_max_body_size {Limits().max_body // 2**20}m;" in TEXT
    assert f"max_size {Limits().max_body // 2**20}MiB" in TEXT


def test_flags_exist() -> None:
    named = set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", re.sub(r"```(bash|yaml).*?```", "", TEXT, flags=re.DOTALL)))
    others = {"continue", "batch-size"}  # of train
    names = {name.replace("_", "-") for name in serve.__annotations__}
    assert named - others <= names
