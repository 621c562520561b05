"""Processes for the tests of pipelined runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pipeline.graphpipe.run.pool import Pool, pool


@pytest.fixture(scope="session")
def processes() -> Iterator[Pool]:
    """Four processes, for cases on up to as many."""
    with pool(4) as result:
        yield result
