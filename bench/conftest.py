"""Option of the benchmarks: `--full` adds the large cases."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also benchmark large batches and the REDDIT and GDELT shapes")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: a large case; runs with --full")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--full"):
        large = [item for item in items if item.get_closest_marker("full")]
        items[:] = [item for item in items if item not in set(large)]
        config.hook.pytest_deselected(items=large)
