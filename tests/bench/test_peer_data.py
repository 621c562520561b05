"""The stream of `make peers`: a local server in place of SNAP's, the table that is cut, and faults in one line."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bench.studies import peer_data, peers
from bench.studies.peer_data import USERS, cut, errors_in_a_line, fetch, refuse_missing
from mspipe_triton.errors import InputError

SOURCE = (
    b"user_id,item_id,timestamp,state_label,comma_separated_list_of_features\n"
    b"0,0,0.0,0,-0.17,0.5\n1,1,36.0,0,0.25,1\n1,999,2678373.0,1,0,0\n"
)
TABLE = "src,dst,time\n1,8228,0\n2,8229,36\n2,9227,2678373\n"


@contextmanager
def server(content: bytes, status: int = 200) -> Iterator[str]:
    """The address of a server on this machine that answers every request with `content`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_address[1]}/wikipedia.csv"
    finally:
        running.shutdown()
        running.server_close()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small table as the one whose digest is expected."""
    monkeypatch.setattr(peer_data, "DIGEST", sha256(TABLE.encode()).hexdigest())


def run(*arguments: str) -> tuple[int, str, str]:
    app = typer.Typer()
    app.command()(peer_data.main)
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.usefixtures("small")
def test_the_table_has_three_columns_and_is_there_only_once(tmp_path: Path) -> None:
    out = tmp_path / "data" / "wiki.csv"
    with server(SOURCE) as url:
        assert run("--url", url, "--out", str(out))[0] == 0
        assert out.read_text() == TABLE
        assert list(out.parent.iterdir()) == [out]
        code, text, _ = run("--url", url, "--out", str(out))
    assert (code, text) == (0, f"{out} is there already\n")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (SOURCE.replace(b"36.0", b"37.0"), 200, "is not the stream of our figures (its SHA-256 is "),
        (SOURCE[:-30], 200, "is not the stream of our figures"),
        (b"<html>\n<body>moved</body>\n", 200, "is not the stream of our figures"),
        (b"", 404, "cannot be downloaded"),
    ],
    ids=["other event", "end is missing", "page", "not there"],
)
def test_a_download_that_is_not_the_stream_leaves_no_file(
    content: bytes, status: int, words: str, tmp_path: Path
) -> None:
    out = tmp_path / "wiki.csv"
    with server(content, status) as url:
        code, _, text = run("--url", url, "--out", str(out))
    assert code == 2
    assert text.startswith(url)
    assert words in text
    assert text.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with server(b"") as url:
        pass
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1.*cannot be downloaded to .*; try again"):
        fetch(url, tmp_path / "wiki.csv")


def test_a_table_that_is_missing_is_named_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(typer.Exit) as end:
        peers.compare("data/wiki.csv")
    assert end.value.exit_code == 2
    line = capsys.readouterr().err
    assert line.startswith("data/wiki.csv: no such file; `make peers-data` downloads ")
    assert peer_data.URL in line
    assert line.count("\n") == 1
    (tmp_path / "mine.csv").touch()
    for data in ("mine.csv", "synthetic"):
        refuse_missing(data)
    with errors_in_a_line():
        pass


@pytest.mark.data
def test_the_table_of_our_figures_has_the_expected_digest(real_data: Path) -> None:
    table = (real_data / "wiki.csv").read_text()
    events = [line.split(",") for line in table.splitlines()[1:]]
    source = [f"{int(src) - 1},{int(dst) - 1 - USERS},{t}.0,0,0.5\n".encode() for src, dst, t in events]
    again = "".join([peer_data.HEAD, *cut([b"header\n", *source])])
    assert again == table
    assert sha256(again.encode()).hexdigest() == peer_data.DIGEST
    assert len(events) == peer_data.EVENTS
