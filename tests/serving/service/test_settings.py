"""Settings of a service: the time between retrainings, values that exclude each other, and addresses that are local."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from mspipe_triton.errors import ConfigError
from mspipe_triton.serving.service.running import is_local
from mspipe_triton.serving.service.settings import Every, ServiceSettings

INFINITE = float("inf")


@pytest.mark.parametrize(
    ("text", "events", "seconds"),
    [
        ("10000", 10000, INFINITE), (" 5 ", 5, INFINITE), ("90s", INFINITE, 90), ("30m", INFINITE, 1800),
        ("1.5h", INFINITE, 5400), ("2d", INFINITE, 172800),
    ],
)  # fmt: skip
def test_the_time_between_retrainings(text: str, events: float, seconds: float) -> None:
    assert Every.parse(text) == Every(events, seconds)


@pytest.mark.parametrize("text", ["0", "0h", "1.5", "-3", "10k", "h", "1e4", "6 h", "١٢"])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="give a number of events, as in 10000, or a time, as in 30m or 6h"):
        ServiceSettings(retrain=text)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"queue": 0}, "queue must be at least 1, not 0"),
        ({"snapshot_seconds": -1.0}, "snapshot-seconds must be at least 0"),
        ({"snapshot_seconds": float("nan")}, "snapshot-seconds"),
        ({"late": "keep"}, "late 'keep' is not one of refuse, drop"),
        ({"late": "drop"}, 'late is for --follow; requests say it themselves, as in "late": "drop"'),
        ({"replayed": True, "follow": "events.csv"}, "use it with --follow -"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"threads": 257}, "threads must be at most 256, not 257"),
    ],
)
def test_values_that_do_not_fit_are_refused(values: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        ServiceSettings(**values)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("[::1]", True), ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.org", False),
        ("127.0.0.1.example.org", False), ("", False),
    ],
)  # fmt: skip
def test_which_addresses_are_local(host: str, local: bool) -> None:
    assert is_local(host) is local


def test_settings_load_no_torch() -> None:
    code = "import mspipe_triton.cli.serve, sys; assert not {'torch', 'pyarrow', 'fastapi'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
