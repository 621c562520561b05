"""Search for the line of a user's code whose operation fails in a pass."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx

_FRAME = re.compile(r'File "(.+)", line (\d+)')


class _Steps(fx.Interpreter):
    """Runs a graph one operation at a time, and remembers the last one."""

    last: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        """Run an operation."""
        self.last = n
        return super().run_node(n)


def culprit(module: fx.GraphModule, arguments: Sequence[Any]) -> str:
    """Return the file and line that a failing operation of a graph was traced from, such as "towers.py:15"; or "".

    Args:
        module: raises an exception with these arguments.
        arguments: its arguments.
    """
    steps = _Steps(module)
    try:
        with torch.no_grad():
            steps.run(*arguments)
    except Exception:
        trace = (steps.last.stack_trace if steps.last is not None else None) or ""
        folder = str(Path(torch.__file__).parent)
        frames = [(file, line) for file, line in _FRAME.findall(trace) if not file.startswith(folder)]
        if frames:
            return f"{os.path.basename(frames[-1][0])}:{frames[-1][1]}"
    return ""
