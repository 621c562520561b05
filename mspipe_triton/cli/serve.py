"""Command that serves a trained model over HTTP."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from mspipe_triton.cli.app import app
from mspipe_triton.cli.options import flags_of, takes_flags
from mspipe_triton.cli.transient import loading, transient
from mspipe_triton.cli.use import Data, Run
from mspipe_triton.errors import ConfigError
from mspipe_triton.serving.service.settings import ServiceSettings
from mspipe_triton.serving.service.web.limits import Limits

_EXTRA = ("fastapi", "fastapi_offline", "uvicorn", "prometheus_client")


@app.command()
@partial(takes_flags, added=flags_of(ServiceSettings, Limits), last=True)
def serve(
    run: Run,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 opens it to other machines, and needs --token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 for a free one.", min=0, max=65535)] = 8000,
    token: Annotated[
        str | None, typer.Option(help="Token that clients must send.", envvar="MSPIPE_TOKEN", show_default=False)
    ] = None,
    data: Data = None,
    **flags: Any,
) -> None:
    """Serve a trained model over HTTP: observe events, score pairs, rank destinations, embed nodes.

    Events are logged before they are taken in, and a restart goes on where the log ends.
    """
    missing = next((name for name in _EXTRA if find_spec(name) is None), None)
    if missing is not None:
        raise ConfigError(
            f"serve needs the extra serve ({missing} is not installed); use `pip install 'mspipe-triton[serve]'`, or "
            "in a checkout `pip install '.[serve]'`"
        )
    with loading():
        from mspipe_triton.cli.use_words import in_words_of_flags
        from mspipe_triton.serving.service.running import Running

    values = {name: value for name, value in flags.items() if value is not None}
    empty = next((name for name, value in values.items() if value == ""), None)
    if empty is not None:
        raise ConfigError(f"--{empty.replace('_', '-')} is empty; give a value, or omit it")
    limits = Limits(**{name: values.pop(name) for name in list(values) if name in Limits.__dataclass_fields__})
    with in_words_of_flags(), transient(f"Loading {run} ..."):
        running = Running(Path(run), data, host, port, token, ServiceSettings(**values), limits, say)
    predictor = running.predictor
    say(
        f"{predictor.name}: {len(predictor):,} events, {predictor.num_nodes:,} nodes, until {predictor.time}\n"
        f"Serving at {running.server.url} (requests: {running.server.url}/docs), state in {running.state}"
    )
    running.run()
    say(f"Stopped after {len(predictor):,} events, until {predictor.time}")


def say(text: str) -> None:
    """Print text to standard error, unless nobody reads that any more, which must not end a service."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
