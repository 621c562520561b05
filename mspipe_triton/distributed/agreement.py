"""Agreement of ranks: what all must have in common when a run starts, and the refusal of a rank that differs."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mspipe_triton.choices import either
from mspipe_triton.distributed.ranks import Ranks
from mspipe_triton.errors import ConfigError, InputError

T = TypeVar("T")


def together(ranks: Ranks, make: Callable[[], T]) -> T:
    """Return what `make` returns in this rank, if no rank refuses its input; all ranks call this.

    Raises:
        InputError: `make` has raised it in a rank, which the message names unless rank 0 is one of those.
    """
    if ranks.alone:
        return make()
    result: T | None = None
    mine: InputError | None = None
    try:
        result = make()
    except InputError as error:
        mine = error
    for rank, (host, refusal) in enumerate(ranks.from_all((socket.gethostname(), mine))):
        if refusal is not None:
            raise type(refusal)(str(refusal) if rank == 0 else f"{rank_name(rank, host)}: {refusal}")
    value: T = result  # type: ignore[assignment]  # no rank has raised
    return value


def agree(ranks: Ranks, facts: Mapping[str, Any], fix: str) -> None:
    """Refuse a rank whose facts, by name, are not those of rank 0; all ranks call this.

    Args:
        facts: small values that can be pickled.
        fix: the last clause of the message.

    Raises:
        ConfigError: with the rank, its host, and all facts that differ.
    """
    first, difference = ranks.from_first(lambda: dict(facts)), None
    names = [name for name in {**first, **facts} if first.get(name) != facts.get(name)]
    if names:
        there, here = (either([f"{name} {each.get(name)}" for name in names], "and") for each in (facts, first))
        difference = f"{there}, and {{first}} has {here}; {fix}"
    refuse(ranks, difference)


def refuse(ranks: Ranks, difference: str | None) -> None:
    """Refuse the first rank that has a difference from rank 0; all ranks call this.

    Args:
        difference: of this rank, the rest of a message after "rank 1 (on HOST) has"; `{first}` in it stands for rank 0.

    Raises:
        ConfigError: a rank has a difference; with the rank and its host.
    """
    if ranks.alone:
        return
    everyone = ranks.from_all((socket.gethostname(), difference))
    for rank, (host, there) in enumerate(everyone):
        if there is not None:
            first = rank_name(0, everyone[0][0])
            raise ConfigError(f"{rank_name(rank, host)} has {there.replace('{first}', first)}")


def rank_name(rank: int, host: str) -> str:
    """Name a rank in a message."""
    return f"rank {rank} (on {host})"
